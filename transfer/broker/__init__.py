"""The broker: holds the S3 credentials, signs URLs and keeps the records. boto3 is imported here only."""
