check:
	ruff format --check . && ruff check . && pytest -q
