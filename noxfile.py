"""The Ray-free tests on every Python that the package supports: `make nox`.

A session makes an environment of its own from constraints.txt; where its interpreter isn't installed it is
skipped, and says so.
"""

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("python", "-m", "pytest", "-m", "unit and not slow", *session.posargs)
