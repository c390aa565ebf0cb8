"""The example: an ordinary flights pipeline, the same pipeline guarded in one line, and a drill that attacks it.

`pipeline` knows nothing of security, `definitions` guards it, `drill` is what `mlsec demo` runs. Nothing is imported
here, so that `import mlsec_dagster.demo` stays free of Dagster and scikit-learn.
"""
