"""The HTTP side: the edge, the strict reader of bodies, the routes."""
