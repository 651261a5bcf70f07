"""The restoration service: routes, limits, batching over requests, the page. See docs/serve.md."""
