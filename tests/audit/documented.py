"""One delivery for each log, written after the vendor's documented examples, each with its page. Names and addresses are theirs."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mlsec_dagster.audit.events import AuditEvent, Quarantined, Source
from mlsec_dagster.audit.sources import azure, cloudtrail, gcp, kubernetes, mlflow, s3_access, wandb

Row = AuditEvent | Quarantined


class Log(NamedTuple):
    """A log and how it is read."""

    source: Source
    page: str
    read: Callable[..., Iterator[Row]]
    lines: list[bytes]

    def data(self) -> bytes:
        """The delivery."""
        if self.source == "aws.cloudtrail":
            return b'{"Records":[' + b",".join(self.lines) + b"]}"
        return b"".join(line + b"\n" for line in self.lines)


def _json(*records: dict[str, Any]) -> list[bytes]:
    return [json.dumps(record, separators=(",", ":")).encode() for record in records]


def lines_of(log: Log, lines: Iterable[bytes]) -> Log:
    """The same log with other records."""
    return log._replace(lines=[*lines])


CLOUDTRAIL = Log(
    "aws.cloudtrail",
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/cloudtrail-logging-understanding-s3-entries.html and "
    "https://docs.aws.amazon.com/sagemaker/latest/dg/logging-using-cloudtrail.html",
    cloudtrail.read,
    _json(
        {
            "eventVersion": "1.09",
            "userIdentity": {
                "type": "AssumedRole",
                "principalId": "AROAIDPPEZS35WEXAMPLE:AssumedRoleSessionName",
                "arn": "arn:aws:sts::111122223333:assumed-role/RoleToBeAssumed/MySessionName",
                "accountId": "111122223333",
                "accessKeyId": "ASIAIOSFODNN7EXAMPLE",
                "sessionContext": {
                    "sessionIssuer": {
                        "type": "Role",
                        "principalId": "AROAIDPPEZS35WEXAMPLE",
                        "arn": "arn:aws:iam::111122223333:role/RoleToBeAssumed",
                        "accountId": "111122223333",
                        "userName": "RoleToBeAssumed",
                    },
                    "attributes": {"creationDate": "2024-07-02T00:21:16Z", "mfaAuthenticated": "false"},
                },
            },
            "eventTime": "2024-07-02T00:22:11Z",
            "eventSource": "s3.amazonaws.com",
            "eventName": "GetObject",
            "awsRegion": "us-west-2",
            "sourceIPAddress": "72.21.198.68",
            "userAgent": "[aws-sdk-java/2.20.160]",
            "requestParameters": {"bucketName": "amzn-s3-demo-bucket1", "key": "models/churn/model.pkl", "versionId": "3/L4kqtJlcpXro"},
            "responseElements": None,
            "additionalEventData": {
                "SignatureVersion": "SigV4",
                "CipherSuite": "TLS_AES_128_GCM_SHA256",
                "bytesTransferredIn": 0.0,
                "AuthenticationMethod": "AuthHeader",
                "x-amz-id-2": "vcUpvlq8VDw5zN3T0RO5Eyl",
                "bytesTransferredOut": 1048576.0,
            },
            "requestID": "28d2faaf-3319-4649-998d-EXAMPLE72818",
            "eventID": "694d604a-d190-4470-8dd1-EXAMPLEe20c1",
            "readOnly": True,
            "resources": [
                {"type": "AWS::S3::Object", "ARNPrefix": "arn:aws:s3:::amzn-s3-demo-bucket1/"},
                {"accountId": "111122223333", "type": "AWS::S3::Bucket", "ARN": "arn:aws:s3:::amzn-s3-demo-bucket1"},
            ],
            "eventType": "AwsApiCall",
            "managementEvent": False,
            "recipientAccountId": "444455556666",
            "eventCategory": "Data",
        },
        {
            "eventVersion": "1.05",
            "userIdentity": {
                "type": "IAMUser",
                "principalId": "AIXDAYQEXAMPLEUMLYNGL",
                "arn": "arn:aws:iam::123456789012:user/intern",
                "accountId": "123456789012",
                "accessKeyId": "ASXIAGXEXAMPLEQULKNXV",
                "userName": "intern",
            },
            "eventTime": "2018-01-02T15:23:46Z",
            "eventSource": "sagemaker.amazonaws.com",
            "eventName": "CreateModel",
            "awsRegion": "us-west-2",
            "sourceIPAddress": "127.0.0.1",
            "userAgent": "USER_AGENT",
            "requestParameters": {
                "modelName": "ExampleModel",
                "primaryContainer": {"image": "174872318107.dkr.ecr.us-west-2.amazonaws.com/kmeans:latest"},
                "executionRoleArn": "arn:aws:iam::123456789012:role/EXAMPLEARN",
            },
            "responseElements": {"modelArn": "arn:aws:sagemaker:us-west-2:123456789012:model/examplemodel"},
            "requestID": "417b8dab-EXAMPLE",
            "eventID": "0f2b3e81-EXAMPLE",
            "eventType": "AwsApiCall",
            "recipientAccountId": "444455556666",
        },
        {
            "eventVersion": "1.08",
            "userIdentity": {"type": "AWSService", "invokedBy": "sagemaker.amazonaws.com"},
            "eventTime": "2024-01-02T15:23:46Z",
            "eventSource": "sagemaker.amazonaws.com",
            "eventName": "UpdateModelPackage",
            "awsRegion": "us-west-2",
            "sourceIPAddress": "sagemaker.amazonaws.com",
            "userAgent": "sagemaker.amazonaws.com",
            "requestParameters": {
                "modelPackageArn": "arn:aws:sagemaker:us-west-2:123456789012:model-package/churn/7",
                "modelApprovalStatus": "Approved",
            },
            "eventID": "5a9b-EXAMPLE",
            "errorCode": "AccessDenied",
            "errorMessage": "User: … is not authorized",
            "eventCategory": "Management",
            "addendum": {"reason": "UPDATED_DATA", "updatedFields": "errorCode", "originalEventID": "4711-EXAMPLE"},
        },
    ),
)

S3_ACCESS = Log(
    "aws.s3_access",
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html",
    s3_access.read,
    [
        (
            b"79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be amzn-s3-demo-bucket1 [06/Feb/2019:00:00:38 +0000] 192.0.2.3 "
            b"79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be 3E57427F3EXAMPLE REST.GET.VERSIONING - "
            b'"GET /amzn-s3-demo-bucket1?versioning HTTP/1.1" 200 - 113 - 7 - "-" "S3Console/0.4" - '
            b"s9lzHYrFp76ZVxRcpX9+5cjAnEH2ROuNkd2BHfIa6UkFVdtjf5mKR3/eTPFvsiP/XV/VLi31234= SigV4 ECDHE-RSA-AES128-GCM-SHA256 AuthHeader "
            b"amzn-s3-demo-bucket1.s3.us-west-1.amazonaws.com TLSV1.2 arn:aws:s3:us-west-1:123456789012:accesspoint/example-AP Yes"
        ),
        (
            b"79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be amzn-s3-demo-bucket1 [06/Feb/2019:00:01:57 +0000] 192.0.2.3 "
            b"arn:aws:iam::123456789012:user/alice DD6CC733AEXAMPLE REST.PUT.OBJECT models/s3%20dg.pdf "
            b'"PUT /amzn-s3-demo-bucket1/models/s3%20dg.pdf HTTP/1.1" 200 - - 4406583 41754 28 "-" "S3Console/0.4" - '
            b"10S62Zv81kBW7BB6SX4XJ48o6kpcl6LPwEoizZQQxJd5qDSCTLX0TgS37kYUBKQW3+bPdrg1234= SigV4 ECDHE-RSA-AES128-SHA AuthHeader "
            b"amzn-s3-demo-bucket1.s3.us-west-1.amazonaws.com TLSV1.2 - -"
        ),
        # Anonymous, the URI a bare dash, and no field behind the version: as old and internal lines are.
        (
            b"79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be amzn-s3-demo-bucket1 [06/Feb/2019:00:02:00 +0000] - "
            b"- 7B4A0FABBEXAMPLE S3.EXPIRE.OBJECT old/model.pkl - - - - 4406583 - - - - 3HL4kqtJlcpXroDTDmJ"
        ),
    ],
)

GCP = Log(
    "gcp.audit",
    "https://cloud.google.com/storage/docs/audit-logging and https://cloud.google.com/logging/docs/audit/understanding-audit-logs "
    "and https://cloud.google.com/vertex-ai/docs/general/audit-logging",
    gcp.read,
    _json(
        {
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
                "status": {},
                "authenticationInfo": {
                    "principalEmail": "user@example.com",
                    "principalSubject": "user:user@example.com",
                    "serviceAccountKeyName": "//iam.googleapis.com/projects/example/serviceAccounts/x/keys/1",
                },
                "requestMetadata": {"callerIp": "203.0.113.7", "callerSuppliedUserAgent": "gcloud-python/2.1", "requestAttributes": {}},
                "serviceName": "storage.googleapis.com",
                "methodName": "storage.objects.get",
                "authorizationInfo": [{"permission": "storage.objects.get", "granted": True}],
                "resourceName": "projects/_/buckets/my-bucket/objects/models/churn/model.pkl",
                "resourceLocation": {"currentLocations": ["us-east1"]},
            },
            "insertId": "-kcrdoae1pb1o",
            "resource": {"type": "gcs_bucket", "labels": {"project_id": "example", "bucket_name": "my-bucket", "location": "us-east1"}},
            "timestamp": "2019-12-12T15:12:35.123456789Z",
            "severity": "INFO",
            "logName": "projects/example/logs/cloudaudit.googleapis.com%2Fdata_access",
            "receiveTimestamp": "2019-12-12T15:12:36.5Z",
        },
        {
            "protoPayload": {
                "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
                "status": {"code": 7, "message": "Permission denied"},
                "authenticationInfo": {
                    "principalEmail": "trainer@example.iam.gserviceaccount.com",
                    "serviceAccountDelegationInfo": [{"firstPartyPrincipal": {"principalEmail": "user@example.com"}}],
                },
                "requestMetadata": {"callerIp": "private"},
                "serviceName": "aiplatform.googleapis.com",
                "methodName": "google.cloud.aiplatform.v1.ModelService.ExportModel",
                "resourceName": "projects/123/locations/us-central1/models/456@2",
            },
            "insertId": "1abc",
            "resource": {"type": "audited_resource", "labels": {"project_id": "example", "service": "aiplatform.googleapis.com"}},
            "timestamp": "2024-03-01T00:00:00Z",
            "logName": "projects/example/logs/cloudaudit.googleapis.com%2Factivity",
            "operation": {"id": "projects/123/locations/us-central1/operations/789", "first": True},
        },
    ),
)

AZURE = Log(
    "azure.monitor",
    "https://learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference and "
    "https://learn.microsoft.com/azure/azure-monitor/reference/tables/amlregistryreadeventslog",
    azure.read,
    _json(
        {
            "time": "2019-02-28T19:10:21.2123117Z",
            "resourceId": "/subscriptions/12345678-2222-3333-4444-555555555555/resourceGroups/mytestrp/providers/Microsoft.Storage"
            "/storageAccounts/testaccount1/blobServices/default",
            "category": "StorageRead",
            "operationName": "GetBlob",
            "operationVersion": "2017-04-17",
            "schemaVersion": "1.0",
            "statusCode": 200,
            "statusText": "Success",
            "durationMs": 5,
            "callerIpAddress": "192.168.0.1:11111",
            "correlationId": "ad881411-201e-004e-1c99-cfd67d000000",
            "location": "uswestcentral",
            "uri": "https://testaccount1.blob.core.windows.net/cont1/models/model.pkl?sv=2019-02-02&sr=b&sig=c2VjcmV0%2Bc2VjcmV0%3D&se=2019",
            "identity": {
                "authorization": [{"action": "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"}],
                "requester": {
                    "appId": "691458b9-1327-4635-9f55-bbbbbbbbbbbb",
                    "audience": "https://storage.azure.com/",
                    "objectId": "fde5ba15-4355-4223-b811-cccccccccccc",
                    "tenantId": "72f988bf-86f1-41af-91ab-dddddddddddd",
                    "upn": "alice@contoso.com",
                },
                "type": "OAuth",
                "tokenHash": "2B3C4D5E",
            },
            "properties": {
                "accountName": "testaccount1",
                "userAgentHeader": "azsdk-python-storage-blob/12.19.0",
                "clientRequestId": "6b0b-1",
                "etag": "",
                "serviceType": "blob",
                "objectKey": "/testaccount1/cont1/models/model.pkl",
                "responseBodySize": 2018,
                "requestBodySize": 0,
            },
        },
        {
            "time": "2024-02-28T19:10:21Z",
            "resourceId": "/SUBSCRIPTIONS/1/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.MACHINELEARNINGSERVICES/REGISTRIES/REG1",
            "category": "RegistryAssetReadEvent",
            "operationName": "Microsoft.MachineLearningServices/registries/assets/read/action",
            "correlationId": "7f3c",
            "properties": {
                "UserObjectId": "fde5ba15-4355-4223-b811-cccccccccccc",
                "UserName": "Alice",
                "AssetName": "churn",
                "AssetVersion": "4",
                "RegistryTenantId": "72f988bf",
            },
        },
        {
            "time": "2024-02-28T19:10:22Z",
            "resourceId": "/SUBSCRIPTIONS/1/RESOURCEGROUPS/RG/PROVIDERS/MICROSOFT.MACHINELEARNINGSERVICES/WORKSPACES/WS1",
            "category": "ModelsChangeEvent",
            "operationName": "MICROSOFT.MACHINELEARNINGSERVICES/WORKSPACES/MODELS/WRITE",
            "resultSignature": "403",
            "identity": '{"UserObjectId":"fde5","UserName":"Alice"}',
            "properties": {"amlModelName": "churn"},
        },
    ),
)

KUBERNETES = Log(
    "kubernetes.audit",
    "https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/ and https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/",
    kubernetes.read,
    _json(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": "12839f9a-ba1d-4a6b-b681-5c577bf3d5a0",
            "stage": "ResponseComplete",
            "requestURI": "/api/v1/namespaces/kubeflow/secrets/mlpipeline-minio-artifact",
            "verb": "get",
            "user": {
                "username": "system:serviceaccount:kubeflow:default",
                "uid": "5f5d",
                "groups": ["system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": ["JTI=7ee5"]},
            },
            "impersonatedUser": {"username": "alice@example.com", "groups": ["system:authenticated"]},
            "sourceIPs": ["203.0.113.9", "192.168.49.1"],
            "userAgent": "kubectl/v1.33.4 (linux/amd64) kubernetes/74cdb42",
            "objectRef": {"resource": "secrets", "namespace": "kubeflow", "name": "mlpipeline-minio-artifact", "apiVersion": "v1"},
            "responseStatus": {"metadata": {}, "code": 200},
            "requestReceivedTimestamp": "2025-09-04T23:57:51.431791Z",
            "stageTimestamp": "2025-09-04T23:57:51.433290Z",
            "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
        },
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": "9151d8b4-0630-4020-8e18-c65369a13249",
            "stage": "ResponseComplete",
            "requestURI": "/apis/serving.kserve.io/v1beta1/namespaces/prod/inferenceservices/churn",
            "verb": "patch",
            "user": {"username": "bob", "groups": ["system:authenticated"]},
            "sourceIPs": ["10.0.60.42"],
            "objectRef": {"resource": "inferenceservices", "namespace": "prod", "name": "churn", "apiGroup": "serving.kserve.io"},
            "responseStatus": {"metadata": {}, "status": "Failure", "message": "forbidden", "reason": "Forbidden", "code": 403},
            "requestReceivedTimestamp": "2023-05-20T04:14:53.795931Z",
            "stageTimestamp": "2023-05-20T04:14:53.798812Z",
            "annotations": {"authorization.k8s.io/decision": "forbid"},
        },
    ),
)

WANDB = Log(
    "wandb.audit",
    "https://docs.wandb.ai/platform/hosting/monitoring-usage/audit-logging",
    wandb.read,
    _json(
        {
            "timestamp": "2023-01-23T12:34:56Z",
            "action": "artifact:read",
            "actor_user_id": "VXNlcjox",
            "actor_email": "alice@example.com",
            "actor_ip": "203.0.113.7",
            "response_code": 200,
            "artifact_asset": "QXJ0aWZhY3Q6MQ==",
            "artifact_digest": "ad2b0f3c",
            "artifact_qualified_name": "team/project/churn:v3",
            "entity_name": "team",
            "project_name": "project",
            "cli_version": "0.17.0",
        },
        {"timestamp": "2023-01-23T12:35:56Z", "action": "user:login", "actor_user_id": 7, "user_asset": 7, "response_code": 403},
    ),
)

MLFLOW = Log(
    "mlflow.audit",
    "docstring of mlsec_dagster.audit.sources.mlflow",
    mlflow.read,
    _json(
        {
            "v": 1,
            "id": "01JDH7ZK9W0000000000000001",
            "time": "2026-01-02T03:04:05.678901Z",
            "server": "mlflow-0:17",
            "method": "GET",
            "path": "/api/2.0/mlflow-artifacts/artifacts/1/0a1b/artifacts/model/model.pkl",
            "query": None,
            "status": 200,
            "bytes_in": 0,
            "bytes_out": 48211,
            "user": "alice",
            "auth": "basic",
            "address": "10.0.0.5",
            "port": 51234,
            "user_agent": "mlflow-python-client/3.17.0",
            "experiment": "1",
            "run": "0a1b",
            "artifact": "model/model.pkl",
            "model": "churn",
            "model_version": "3",
        },
        {
            "v": 1,
            "id": "01JDH7ZK9W0000000000000002",
            "time": "2026-01-02T03:04:06Z",
            "server": "mlflow-0:17",
            "method": "POST",
            "path": "/api/2.0/mlflow/registered-models/alias",
            "status": 401,
            "model": "churn",
            "model_version": "champion",
            "address": "2001:db8::1",
        },
    ),
)

LOGS = (CLOUDTRAIL, S3_ACCESS, GCP, AZURE, KUBERNETES, WANDB, MLFLOW)
