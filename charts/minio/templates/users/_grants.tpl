{{/*
What each user of the object store may do, as YAML: USER:ACCESS:BUCKET, which the command `ingestion users` reads. It is
what the programs do that open the store as this user.
*/}}
{{- define "minio.grants" -}}
{{- $buckets := .Values.global.buckets -}}
# Airflow's processes write task logs, show reports, and wait for deliveries.
- airflow:write:{{ $buckets.logs }}
- airflow:read:{{ $buckets.reports }}
- airflow:read:{{ $buckets.data }}
- mlflow:write:{{ $buckets.mlflow }}
# The feature server looks whether features are there.
- feast:read:{{ $buckets.feast }}
- tasks:write:{{ $buckets.data }}
- tasks:write:{{ $buckets.reports }}
# Model servers write what they predicted, and tasks join labels to it.
- serving:write:{{ $buckets.predictions }}
- tasks:read:{{ $buckets.predictions }}
# Those tasks that compute or read features.
- features:write:{{ $buckets.data }}
- features:write:{{ $buckets.reports }}
- features:write:{{ $buckets.feast }}
- backups:write:{{ $buckets.backups }}
{{- end -}}
