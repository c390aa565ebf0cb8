"""Who touched data and models: the platforms' own logs, read into one kind of event; knows no Dagster and no cloud client.

    for row in cloudtrail.read(path.read_bytes()):     # mlsec_dagster.audit.sources
        match row:
            case AuditEvent():
                print(json.dumps(to_ocsf(row)))        # OCSF 1.8, and back with from_ocsf
            case Quarantined():
                print(row.reason, row.raw)             # what could not be read is kept, not dropped

`docs/audit.md` tells what is read so far, and what is not.
"""
