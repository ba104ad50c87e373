"""Only the query parameters that a route documents: a filter that is mistyped would otherwise select everything."""

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from switch.errors import Problem

_known: dict[str, frozenset[str]] = {}  # by the method and path of a route


def documented_only(request: Request) -> None:
    """Raises Problem invalid when a parameter is none of the route's, is there twice or holds NUL, which PostgreSQL has no text for; the names that
    were sent are not repeated. An address that holds NUL is nobody's."""
    if any("\0" in str(part) for part in request.path_params.values()):
        raise Problem("not_found")
    route, sent = request.scope.get("route"), [name for name, _ in request.query_params.multi_items()]
    if not sent or not isinstance(route, APIRoute):
        return
    place = f"{request.method} {route.path}"
    known = _known.get(place)
    if known is None:
        known = _known[place] = frozenset(_names(route.dependant))
    if not known.issuperset(sent):
        raise _invalid(f"one of: {', '.join(sorted(known))}" if known else "none is known here", "unknown_parameter")
    if len(set(sent)) < len(sent):
        raise _invalid("each parameter once", "parameter_twice")
    if any("\0" in value for value in request.query_params.values()):
        raise _invalid("no NUL", "parameter_nul")


def _names(dependant: Dependant) -> list[str]:
    return [*(field.alias for field in dependant.query_params), *(name for each in dependant.dependencies for name in _names(each))]


def _invalid(rule: str, type_: str) -> Problem:
    return Problem("invalid", "A query parameter is not known here, is there twice or holds NUL.",
                   errors=[{"field": "query", "rule": rule, "type": type_}])
