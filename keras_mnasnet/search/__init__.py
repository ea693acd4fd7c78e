"""Architecture search: spaces, rewards, algorithms, latency models, evaluation, studies."""

__all__: list[str] = []
