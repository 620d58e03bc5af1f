check:
	ruff format --check . && ruff check . && pytest -q -n 2 --dist loadfile
