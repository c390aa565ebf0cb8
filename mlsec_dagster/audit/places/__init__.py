"""Storage that logs lie in: a local disk, S3, Google Cloud Storage, Azure Blob storage; all of them a `Place`.

    place = S3Bucket(s3.get_client(), "org-trail", "AWSLogs/o-1/")            # dagster_aws.s3.S3Resource
    place = GCSBucket(gcs.get_client(), "audit-sink")                         # dagster_gcp.GCSResource
    place = AzureBlobs(adls2.blob_client, "insights-logs-storageread")        # dagster_azure.adls2.ADLS2Resource
    place = Directory("/var/log/mlflow")

    for found in place.list():
        for piece in place.read(found):
            ...

A client brings the credentials that the project has already; nothing here makes, keeps or prints any. What a client raises becomes
a `StoreError` that says what to do and holds neither addresses nor signatures.
"""

from mlsec_dagster.audit.places.adls import AzureBlobs
from mlsec_dagster.audit.places.directory import Directory
from mlsec_dagster.audit.places.gcs import GCSBucket
from mlsec_dagster.audit.places.s3 import S3Bucket

__all__ = ["AzureBlobs", "Directory", "GCSBucket", "S3Bucket"]
