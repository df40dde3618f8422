"""Access to the web page: logins, sessions, roles, and limits for connections and requests.

Every request passes `middleware.py` before NiceGUI receives it. Only `fluffle.web` and `fluffle web passwd` import
this package.
Begin with `auth.py`, then `middleware.py`.
"""
