"""The rendered corpus for other trainers, as Parquet: every row that `render` certified, asked as the model is asked.

Two forms. `messages`: `images` and `messages`, as TRL's trainers take them; `fine_vision`: `images` and `texts`, as FineVision
and the Cauldron lie on the hub. Both can be read by the library `datasets`, which decodes the pictures, and by `ingest`. In
both, pictures stand before the first question and leave no mark in the text. Beside its conversation a row keeps `source` and
`row`, which name it in the ledger, and its other labels, task and kind as `task_name` and `type`.

Rows about the same pictures lie together, in the order of the image stores; so a picture is read once for all of them, and
Parquet's dictionary holds its bytes once in a group of rows.
"""
