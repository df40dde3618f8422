"""The web page: tasks, LLMs, chat, questions, reports and rejected messages, built on NiceGUI.

All pages share one client and one subscription (`live.py`). A page reads through it and changes things only through
`PageContext.act`, which checks the visitor's role each time. Only `fluffle web` imports this package.
Begin with `app.py` (the composition root), then `page_context.py` and `pages/tasks.py`. `components.py` and
`layout.py` hold the HTML that pages share.
"""
