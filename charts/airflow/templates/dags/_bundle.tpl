{{/*
Where Airflow reads DAG files (dag_processor.dag_bundle_config_list), as JSON for airflow.cfg, in which % stands for a value.
Of one name whatever the source is, so that runs outlive a change of it.
*/}}
{{- define "airflow.dagBundles" -}}
{{- $bundle := dict "name" "dags-folder" "classpath" "airflow.dag_processing.bundles.local.LocalDagBundle" "kwargs" dict -}}
{{- if .Values.dags.persistence.enabled -}}
{{- $_ := set $bundle "classpath" "mlops.airflow.bundles.volume.VolumeDagBundle" -}}
{{- $_ = set $bundle "kwargs" (dict "path" "/opt/maestro/dags") -}}
{{- else if .Values.dags.gitSync.enabled -}}
{{- $_ := set $bundle "classpath" "airflow.providers.git.bundles.git.GitDagBundle" -}}
{{- /* The address here, too: Airflow's commands, which may not read the connection, make the bundle as well. */ -}}
{{- $kwargs := dict "git_conn_id" "git_dags" "repo_url" .Values.dags.gitSync.repo "tracking_ref" .Values.dags.gitSync.ref -}}
{{- $_ = set $kwargs "refresh_interval" (trimSuffix "s" .Values.dags.gitSync.period | int) -}}
{{- with .Values.dags.gitSync.subPath -}}
{{- $_ = set $kwargs "subdir" . -}}
{{- end -}}
{{- $_ = set $bundle "kwargs" $kwargs -}}
{{- end -}}
{{- list $bundle | toJson | replace "%" "%%" -}}
{{- end -}}

{{/*
The connections that are declared: those of values, and the one to the repository of DAG files.
*/}}
{{- define "airflow.connections" -}}
{{- $connections := .Values.connections -}}
{{- with .Values.dags.gitSync -}}
{{- if .enabled -}}
{{- $git := dict "conn_type" "git" "description" "The DAG files (dags.gitSync)" "host" .repo -}}
{{- $extra := dict -}}
{{- with .credentialsSecret -}}
{{- $_ := set $git "login" (dict "secretKeyRef" (dict "name" . "key" "GITSYNC_USERNAME")) -}}
{{- $_ = set $git "password" (dict "secretKeyRef" (dict "name" . "key" "GITSYNC_PASSWORD")) -}}
{{- end -}}
{{- with .sshKeySecret -}}
{{- $_ := set $extra "private_key" (dict "secretKeyRef" (dict "name" . "key" "gitSshKey")) -}}
{{- end -}}
{{- if .knownHosts -}}
{{- $_ := set $extra "known_hosts_file" "/etc/airflow/known_hosts" -}}
{{- $_ = set $extra "strict_host_key_checking" "yes" -}}
{{- end -}}
{{- $connections = merge (dict "git_dags" (set $git "extra" $extra)) $connections -}}
{{- end -}}
{{- end -}}
{{- toYaml $connections -}}
{{- end -}}

{{/*
Ends the rendering where the sources of DAG files contradict each other, with the remedy.
*/}}
{{- define "airflow.validateDags" -}}
{{- with .Values.dags.persistence -}}
{{- if and .existingClaim (not .enabled) -}}
{{- fail (printf "dags.persistence.existingClaim is %q and dags.persistence.enabled is false: set enabled to true or existingClaim to \"\"" .existingClaim) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.dags.persistence.enabled .Values.dags.gitSync.enabled -}}
{{- fail "dags.persistence.enabled and dags.gitSync.enabled are both true, and DAG files have one source: set one of them to false" -}}
{{- end -}}
{{- with .Values.dags.gitSync -}}
{{- if .enabled -}}
{{- if not .repo -}}
{{- fail "dags.gitSync.enabled is true and dags.gitSync.repo is empty: set it to the repository's address, such as https://git.example.com/team/dags.git" -}}
{{- end -}}
{{- if regexMatch "^[a-z+]+://[^/]*:[^/]*@" .repo -}}
{{- fail "dags.gitSync.repo holds a password: put it and the name into a Secret with the keys GITSYNC_USERNAME and GITSYNC_PASSWORD, and set dags.gitSync.credentialsSecret" -}}
{{- end -}}
{{- $ssh := include "common.bySsh" .repo -}}
{{- if and $ssh (or (not .sshKeySecret) (not .knownHosts)) -}}
{{- fail (printf "dags.gitSync.repo is %q, which is reached by SSH: set dags.gitSync.sshKeySecret to a Secret with the key gitSshKey, and dags.gitSync.knownHosts to what ssh-keyscan says of the host" .repo) -}}
{{- end -}}
{{- if and (not $ssh) .sshKeySecret -}}
{{- fail (printf "dags.gitSync.sshKeySecret is %q and dags.gitSync.repo is %q, which no SSH key opens: set credentialsSecret instead, or an address of SSH" .sshKeySecret .repo) -}}
{{- end -}}
{{- if and $ssh .credentialsSecret -}}
{{- fail (printf "dags.gitSync.credentialsSecret is %q and dags.gitSync.repo is reached by SSH, where only a key counts: set credentialsSecret to \"\"" .credentialsSecret) -}}
{{- end -}}
{{- if and .credentialsSecret (hasPrefix "http://" .repo) -}}
{{- fail "dags.gitSync.repo is reached by http, which would show the password of dags.gitSync.credentialsSecret to the network: set an address of https" -}}
{{- end -}}
{{- else if .repo -}}
{{- fail (printf "dags.gitSync.repo is %q and dags.gitSync.enabled is false: set enabled to true or repo to \"\"" .repo) -}}
{{- end -}}
{{- end -}}
{{- end -}}
