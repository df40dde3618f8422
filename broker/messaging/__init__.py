"""Request and reply, and messages between LLMs and people, over one connection to RabbitMQ.

`rpc` sends requests and waits for their replies; the client, the tools of LLMs and the chat history use it.
`chat_client` publishes messages and waits for their answers. Every room may import this package; it imports
`broker.amqp`, `broker.protocol` and `broker.access`. Begin reading with `rpc.RpcClient`.
"""
