"""The HTTP application: routes, middleware, metrics."""
