"""The students of the literature that are no Transformers, as Hugging Face models; one file each.

A file has a config, its models, and says under which Auto classes `smidgen.registration` enters them.
"""
