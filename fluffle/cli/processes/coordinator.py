"""`fluffle coordinator`: runs the coordinator."""

import click


@click.command()
def coordinator() -> None:
    """Run the coordinator: it assigns tasks to LLMs and stores what happens to them.

    A second coordinator stands by until the first one ends. Ctrl-C or SIGTERM stops the coordinator; no task is lost.
    """
    import asyncio
    import signal

    from broker.node.locate import amqp_url
    from broker.settings import load_settings
    from broker.telemetry.log_config import configure_logging
    from broker.timestamps import now
    from coordinator.app import build_coordinator
    from fluffle.cli.python_tuning import set_up_for_long

    set_up_for_long()
    settings = load_settings()
    configure_logging(settings.log_level)
    url = amqp_url(settings)

    async def serve() -> None:
        daemon = build_coordinator(
            settings, url=url, clock=now, on_ready=lambda state: click.echo(f"coordinator: ready, {state}")
        )
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, daemon.stop)
        await daemon.run()

    asyncio.run(serve())
