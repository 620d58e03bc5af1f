check:
	ruff format --check . && ruff check . && pytest -q -n 2 --dist loadfile

docs:
	python -m mkdocs build --strict --clean --site-dir site

.PHONY: check docs
