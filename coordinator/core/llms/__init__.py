"""LLMs: their instances and slots, how long their runs take, and how good their answers are.

Begin with `llm.py`. `duration_estimates.py` and `quality.py` hold what is learned of an LLM from its runs,
`skill_match.py` suggests skills for a task from its text. Every package of the core may import this one.
"""
