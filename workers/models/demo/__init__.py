"""Answer tasks without a model: summaries and key terms by counting words, the same answer every time.

`llm.py` decides what a task asks for, `extract.py` finds the sentences and the terms that matter most.
Only `workers.models.factory` imports this package. Begin with `llm.py`.
"""
