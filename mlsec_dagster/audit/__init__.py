"""Who touched data and models: the platforms' own logs in one trail, each access once; knows no Dagster and no cloud client.

    ingestion = Ingestion(database, trail, LogSource(Directory("/var/log/mlflow"), MLflowLayout()), ArtifactMap(), ledger=ledger)
    ingestion.tick(Budget())                               # places and layouts -> sources -> events -> the trail
    for batch in rows(trail, Filter(artifact="fraud/3")):  # mlsec_dagster.audit.querying
        print(*events_of(batch))

A log by itself: `mlsec_dagster.audit.sources`. `docs/audit.md` tells how all of it fits together, and what it cannot see.
"""
