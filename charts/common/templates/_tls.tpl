{{/*
What speaks TLS, and nothing else, where global.tls.enabled is true, as YAML: a component and the ports of its pods. The
other ports stay plain (docs/security.md). Servers, clients, probes and certificates all follow from this list.
*/}}
{{- define "common.tls.ports" -}}
postgresql: [5432]
postgresql-pooler: [6432]
redis: [6379]
minio: [9000, 9001]
mlflow: [5000]
feast: [6566]
model-server: [8080]
sensor-trainer: [8000]
airflow-api-server: [8080]
{{- end -}}

{{/*
Whether a component speaks TLS: "yes" or nothing. A store elsewhere is not ours to say, and a pooler need not be there.
  (dict "root" $ "component" "mlflow"), and "port" 5000 to ask about one port
*/}}
{{- define "common.tls.speaks" -}}
{{- $ports := get (include "common.tls.ports" . | fromYaml) .component -}}
{{- $store := get .root.Values.global (eq .component "minio" | ternary "s3" .component) | default dict -}}
{{- $elsewhere := dig "external" "enabled" false $store -}}
{{- if eq .component "postgresql-pooler" -}}
{{- $elsewhere = include "common.postgresql.hasPooler" . | empty -}}
{{- end -}}
{{- if and .root.Values.global.tls.enabled $ports (not $elsewhere) -}}
{{- if or (not .port) (has (toString .port) (splitList "," (join "," $ports))) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Where certificates come from: "authority", the chart's own, "cert-manager", or "people", who have made the Secrets.
  (dict "root" $)
*/}}
{{- define "common.tls.source" -}}
{{- $tls := .root.Values.global.tls -}}
{{- if $tls.existingSecrets -}}people{{- else if $tls.certManager.issuerRef.name -}}cert-manager{{- else -}}authority{{- end -}}
{{- end -}}

{{/*
The Secret of a component with tls.crt, tls.key and ca.crt. `ca` is that of all clients, with ca.crt; `authority`, which
signs, is mounted nowhere.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.tls.secretName" -}}
{{- $tls := .root.Values.global.tls -}}
{{- if eq (include "common.tls.source" .) "people" -}}
{{- get $tls.existingSecrets .component | required (printf "global.tls.existingSecrets has no %s: name a Secret for each of %s, and ca" .component (keys (include "common.tls.ports" . | fromYaml) | sortAlpha | join ", ")) -}}
{{- else -}}
{{- include "common.fullname" (dict "root" .root "component" (printf "tls-%s" .component)) -}}
{{- end -}}
{{- end -}}

{{/*
The names of a component's Service that a certificate is for, as a JSON list; clients of ours use the first, and those that
a port-forward serves the last, beside 127.0.0.1.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.tls.names" -}}
{{- $names := list (printf "%s-%s" .root.Release.Name .component) -}}
{{- range $service, $component := include "common.serviceComponents" . | fromYaml -}}
{{- if eq $component $.component -}}
{{- $host := include "common.serviceHost" (dict "root" $.root "service" $service) -}}
{{- $inNamespace := printf "%s.%s" $host $.root.Release.Namespace -}}
{{- $names = list $host $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.cluster.local" $inNamespace) "localhost" -}}
{{- end -}}
{{- end -}}
{{- if eq .component "model-server" -}}
{{- /* One certificate for all model servers: those of modelServer.models, in that chart and in the umbrella. */}}
{{- range $name, $_ := .root.Values.models | default (.root.Values.modelServer | default dict).models -}}
{{- $host := include "common.fullname" (dict "root" $.root "component" (printf "model-server-%s" $name)) -}}
{{- $names = concat $names (list $host (printf "%s.%s.svc" $host $.root.Release.Namespace)) -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/*
What this upgrade does with a Secret of the chart's authority, as YAML: `renew`, and `stamp`, which is another one with each
certificate. No template can read a certificate: when it ends, and its names, are annotations that the chart wrote. One that
is made anew has the hash of the one before it for its stamp, so that each chart of the release finds the same.
  (dict "root" $ "component" "mlflow"), or "authority"
*/}}
{{- define "common.tls.state" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace (include "common.tls.secretName" .) | default dict -}}
{{- $certificate := dig "data" (eq .component "ca" | ternary "ca.crt" "tls.crt") "" $secret -}}
{{- $hash := $certificate | sha256sum | trunc 8 -}}
{{- if ne (include "common.tls.source" .) "authority" -}}
renew: false
stamp: {{ $hash | quote }}
{{- else -}}
{{- $written := dig "metadata" "annotations" dict $secret -}}
{{- $left := sub (get $written "maestro/ends" | default "0" | int64) (now | unixEpoch | int64) -}}
{{- $renew := or (not $certificate) (lt $left (mul 86400 (int64 .root.Values.global.tls.renewDays))) -}}
{{- if ne .component "authority" -}}
{{- $authority := dict "root" .root "component" "authority" -}}
{{- $signer := (lookup "v1" "Secret" .root.Release.Namespace (include "common.tls.secretName" $authority)).data | default dict -}}
{{- $renew = or $renew (include "common.tls.state" $authority | fromYaml).renew (ne (dig "data" "ca.crt" "" $secret) (get $signer "tls.crt")) -}}
{{- $renew = or $renew (ne (get $written "maestro/names") (include "common.tls.names" .)) -}}
{{- end -}}
renew: {{ $renew }}
stamp: {{ ternary $hash (get $written "maestro/stamp") $renew | quote }}
{{- end -}}
{{- end -}}

{{/*
A label of the pods of a workload that is another one where its certificate, or what it trusts, is.
  (dict "root" $ "component" "mlflow")
*/}}
{{- define "common.tls.label" -}}
{{- if .root.Values.global.tls.enabled -}}
{{- $trusted := eq (include "common.tls.source" .) "authority" | ternary "authority" "ca" -}}
{{- $stamps := list (include "common.tls.state" (dict "root" .root "component" $trusted) | fromYaml).stamp -}}
{{- $shown := list (.role | default .component) -}}
{{- if eq .component "airflow-scheduler" -}}
{{- $shown = .root.Values.scheduler.withApiServer | ternary (list "airflow-api-server") (list) -}}
{{- end -}}
{{- range $shown -}}
{{- if include "common.tls.speaks" (dict "root" $.root "component" .) -}}
{{- $stamps = append $stamps (include "common.tls.state" (dict "root" $.root "component" .) | fromYaml).stamp -}}
{{- end -}}
{{- end -}}
maestro/certificates: c{{ join "," $stamps | sha256sum | trunc 12 }}
{{- end -}}
{{- end -}}

{{/* The file by which clients verify servers, in each container that has common.containerDefaults. */}}
{{- define "common.tls.ca" -}}
/etc/tls-ca/ca.crt
{{- end -}}

{{/*
Entries of a container's environment by which OpenSSL, Go and Rust trust our authority beside those of the system. Nothing
where there is no TLS.
  (dict "root" $)
*/}}
{{- define "common.tls.env" -}}
{{- if .root.Values.global.tls.enabled -}}
- name: SSL_CERT_FILE
  value: {{ include "common.tls.ca" . }}
- name: SSL_CERT_DIR
  value: /etc/ssl/certs
{{- end -}}
{{- end -}}

{{/*
Entries by which the servers of mlops (mlops.config.CertificateSettings) find their certificate and key.
  (dict "root" $)
*/}}
{{- define "common.tls.serverEnv" -}}
{{- if .root.Values.global.tls.enabled -}}
- name: MAESTRO_TLS_CERTIFICATE
  value: /etc/tls/tls.crt
- name: MAESTRO_TLS_KEY
  value: /etc/tls/tls.key
{{- end -}}
{{- end -}}

{{/*
The volumes of common.volumes: the authority's certificate in all pods, and in a server's its own, with its key. PostgreSQL
takes no key that others may read.
  (dict "root" $ "certificate" "mlflow" "names" (dict "tls.crt" "public.crt")), the last where the server wants such
*/}}
{{- define "common.tls.volumes" -}}
{{- if .root.Values.global.tls.enabled -}}
- name: tls-ca
  secret:
    secretName: {{ include "common.tls.secretName" (dict "root" .root "component" "ca") }}
    items:
      - {key: ca.crt, path: ca.crt}
{{- if and .certificate (include "common.tls.speaks" (dict "root" .root "component" .certificate)) }}
- name: tls
  secret:
    secretName: {{ include "common.tls.secretName" (dict "root" .root "component" .certificate) }}
    defaultMode: 0440
    items:
      {{- $names := .names | default dict }}
      {{- range list "tls.crt" "tls.key" }}
      - {key: {{ . }}, path: {{ get $names . | default . }}}
      {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/*
Where a container finds them.
  (dict "root" $ "certificate" "mlflow")
*/}}
{{- define "common.tls.mounts" -}}
{{- if .root.Values.global.tls.enabled -}}
- name: tls-ca
  mountPath: {{ include "common.tls.ca" . | dir }}
  readOnly: true
{{- if and .certificate (include "common.tls.speaks" (dict "root" .root "component" .certificate)) }}
- name: tls
  mountPath: /etc/tls
  readOnly: true
{{- end }}
{{- end -}}
{{- end -}}

{{/*
What a probe asks by HTTP, in the scheme that the component speaks; the kubelet verifies no certificate.
  (dict "root" $ "component" "mlflow" "path" "/health" "port" "http")
*/}}
{{- define "common.httpGet" -}}
httpGet: {path: {{ .path }}, port: {{ .port }}{{ if include "common.tls.speaks" (dict "root" .root "component" .component) }}, scheme: HTTPS{{ end }}}
{{- end -}}
