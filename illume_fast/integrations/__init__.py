"""Models of other codebases, run on our engine with the weights where they are.

A folder for each codebase, and three files they share: `plain` says whether a model is what its class promises,
`borrow` puts our decoder over its parameters, `report` says what was replaced and undoes it.

`ray_data` is another matter: it hands our own model the rows of a Ray data set.
"""
