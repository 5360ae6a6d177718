"""A run over a file as a list of shards: what is finished survives, and outputs are assembled at the end.

`plan` cuts a raster into shards, `parts` keeps one of them in a file, `journal` lists those that are done, `folder`
is where all of this lies, and `mosaic` puts the shards together again.
"""
