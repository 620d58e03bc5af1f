check: lint
	pytest -q -n 2 --dist loadfile

lint:
	ruff format --check .
	ruff check .
	hadolint Dockerfile
	zizmor --quiet --offline .github
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	check-jsonschema --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml, $(wildcard .github/ISSUE_TEMPLATE/*.yml))
	check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

docs:
	python -m mkdocs build --strict --clean --site-dir site

.PHONY: check docs lint
