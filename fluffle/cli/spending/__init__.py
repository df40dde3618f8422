"""The commands about rate limits and money: `fluffle limit` and `fluffle budget`.

Only `fluffle.cli.main` imports this package, when one of its commands runs. It uses the client for everything, and
`fluffle.presentation` for texts. Begin with `limit.py`.
"""
