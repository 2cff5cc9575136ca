{{/* The steps in the order of the pipeline; rerank where there is a server for it. A new one also needs
its block in values.yaml. */}}
{{- define "rag.steps" -}}
["retrieve", {{ if .Values.reranker.url }}"rerank", {{ end }}"augment", "generate"]
{{- end }}

{{/* The deployments: who calls comes before who is called. */}}
{{- define "rag.parts" -}}
{{- concat (list "service" "composite") (include "rag.steps" . | fromJsonArray) | toJson -}}
{{- end }}

{{/* Name of a part; a CronJob's may have 52 characters. Call with (list $ "part"). */}}
{{- define "rag.name" -}}
{{- printf "%s-%s" (index . 0).Release.Name (index . 1) -}}
{{- end }}

{{- define "rag.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "rag.labels" -}}
{{ include "rag.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Reference of an image, by digest where there is one. */}}
{{- define "rag.image" -}}
{{- .repository -}}{{- with .tag }}:{{ . }}{{ end -}}{{- with .digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "rag.port" -}}
{{- if eq . "service" }}8000{{ else }}8080{{ end -}}
{{- end }}

{{- define "rag.url" -}}
http://{{ include "rag.name" . }}:{{ include "rag.port" (index . 1) }}
{{- end }}

{{/* Port of a URL. */}}
{{- define "rag.urlPort" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (has $url.scheme (list "https" "tls"))) -}}
{{- end }}

{{/* Seconds from SIGTERM to SIGKILL, the sleep before SIGTERM included. */}}
{{- define "rag.grace" -}}
{{- $root := index . 0 -}}
{{- if eq (index . 1) "service" -}}
{{- /* after the drain it closes what hangs, within 25 s */ -}}
{{- add $root.Values.preStopSeconds $root.Values.drainSeconds 30 -}}
{{- else -}}
{{- add $root.Values.preStopSeconds $root.Values.deadlineSeconds 15 -}}
{{- end -}}
{{- end }}

{{/* Variables and key files by part, as YAML {env: {NAME: value}, keys: {NAME: {existingSecret, key}}}. */}}
{{- define "rag.config" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $values := $root.Values -}}
{{- $writes := and (eq $part "service") $values.documents.enabled -}}
{{- $env := dict -}}
{{- $keys := dict -}}
{{- $more := dict -}}
{{- if eq $part "service" -}}
  {{- $_ := set $env "RAG_RUNNER" "remote" -}}
  {{- $_ := set $env "RAG_COMPOSITE_URL" (include "rag.url" (list $root "composite")) -}}
  {{- $_ := set $env "RAG_HOST" "0.0.0.0" -}}
  {{- $_ := set $env "RAG_PORT" (include "rag.port" "service") -}}
  {{- $_ := set $env "RAG_HOME" "/data" -}}
  {{- $_ := set $env "RAG_COLLECTION" $values.collection -}}
  {{- $_ := set $env "RAG_DEADLINE_S" $values.deadlineSeconds -}}
  {{- $_ := set $env "RAG_DRAIN_S" $values.drainSeconds -}}
  {{- $_ := set $env "RAG_LOG_FORMAT" "json" -}}
  {{- $_ := set $keys "RAG_API_KEYS_FILE" $values.apiKeys -}}
  {{- if $values.linkSecret.existingSecret -}}
    {{- $_ := set $keys "RAG_LINK_SECRET_FILE" $values.linkSecret -}}
  {{- end -}}
{{- else if eq $part "composite" -}}
  {{- range $step := include "rag.steps" $root | fromJsonArray -}}
    {{- $_ := set $env (printf "RAG_%s_URL" (upper $step)) (include "rag.url" (list $root $step)) -}}
  {{- end -}}
  {{- $_ := set $env "RAG_STEP_DEADLINE_S" $values.deadlineSeconds -}}
  {{- with $values.rewriting -}}{{- $_ := set $env "RAG_REWRITING" . -}}{{- end -}}
{{- else if eq $part "rerank" -}}
  {{- $_ := set $env "RAG_RERANKER_URL" $values.reranker.url -}}
  {{- with $values.reranker.kind -}}{{- $_ := set $env "RAG_RERANKER" . -}}{{- end -}}
  {{- with $values.reranker.model -}}{{- $_ := set $env "RAG_RERANKER_MODEL" . -}}{{- end -}}
  {{- if $values.reranker.apiKey.existingSecret -}}
    {{- $_ := set $keys "RAG_RERANKER_API_KEY_FILE" $values.reranker.apiKey -}}
  {{- end -}}
{{- else if eq $part "generate" -}}
  {{- with $values.llm.baseUrl -}}
    {{- $_ := set $env "RAG_LLM_BASE_URL" . -}}
    {{- $_ := set $env "RAG_LLM_MODEL" $values.llm.model -}}
    {{- with $values.llm.pace -}}{{- $_ := set $env "RAG_LLM_PACE" . -}}{{- end -}}
    {{- if $values.llm.apiKey.existingSecret -}}
      {{- $_ := set $keys "RAG_LLM_API_KEY_FILE" $values.llm.apiKey -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- if or $writes (has $part (list "retrieve" "ingest" "bulk")) -}}
  {{- $_ := set $env "RAG_STORE" "qdrant" -}}
  {{- $_ := set $env "RAG_QDRANT_URL" $values.qdrant.url -}}
  {{- if $values.qdrant.apiKey.existingSecret -}}
    {{- $_ := set $keys "RAG_QDRANT_API_KEY_FILE" $values.qdrant.apiKey -}}
  {{- end -}}
  {{- with $values.embedding.baseUrl -}}
    {{- $_ := set $env "RAG_EMBEDDER" "openai" -}}
    {{- $_ := set $env "RAG_EMBEDDING_BASE_URL" . -}}
    {{- $_ := set $env "RAG_EMBEDDING_MODEL" $values.embedding.model -}}
    {{- if $values.embedding.apiKey.existingSecret -}}
      {{- $_ := set $keys "RAG_EMBEDDING_API_KEY_FILE" $values.embedding.apiKey -}}
    {{- end -}}
  {{- end -}}
  {{- /* what decides how documents are cut and embedded must be the same for all who write */ -}}
  {{- $more = $values.retrieve.settings | default dict -}}
{{- end -}}
{{- if hasKey $values $part -}}
  {{- $more = merge (dict) ((index $values $part).settings | default dict) $more -}}
{{- end -}}
{{- dict "env" (merge $env $more) "keys" $keys | toYaml -}}
{{- end }}

{{/* Settings of a part that the chart sets itself, as a JSON list. */}}
{{- define "rag.own" -}}
{{- $root := index . 0 -}}
{{- $bare := deepCopy $root.Values -}}
{{- range $part := include "rag.parts" $root | fromJsonArray -}}
  {{- $_ := set (index $bare $part) "settings" dict -}}
{{- end -}}
{{- $config := include "rag.config" (list (dict "Values" $bare "Release" $root.Release "Chart" $root.Chart) (index . 1)) | fromYaml -}}
{{- concat (keys $config.env) (keys $config.keys) (list "RAG_THREADS" "RAG_HOST" "RAG_PORT") | toJson -}}
{{- end }}

{{- define "rag.keyFolder" -}}
/etc/rag/{{ . | lower | trimPrefix "rag_" | trimSuffix "_file" | replace "_" "-" }}
{{- end }}

{{/* A value as text; Helm reads every number as a float and would write 1e+06. */}}
{{- define "rag.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{- define "rag.env" -}}
{{- $config := include "rag.config" . | fromYaml -}}
{{- range $name, $value := $config.env }}
- name: {{ $name }}
  value: {{ include "rag.text" $value | quote }}
{{- end }}
{{- range $name, $from := $config.keys }}
- name: {{ $name }}
  value: {{ include "rag.keyFolder" $name }}/{{ $from.key }}
{{- end }}
{{- if eq (index . 1) "bulk" }}
- {name: RAG_THREADS, value: "1"} # of a worker; Ray gives it as many processors
{{- else if hasKey $config.env "RAG_QDRANT_URL" }}
- name: RAG_THREADS
  valueFrom:
    resourceFieldRef: {resource: limits.cpu}
{{- end }}
{{- end }}

{{- define "rag.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- range $name, $_ := (include "rag.config" . | fromYaml).keys }}
- {name: {{ base (include "rag.keyFolder" $name) }}, mountPath: {{ include "rag.keyFolder" $name }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "rag.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ (index (index . 0).Values (index . 1)).tmpSize }}}
{{- range $name, $from := (include "rag.config" . | fromYaml).keys }}
- name: {{ base (include "rag.keyFolder" $name) }}
  secret:
    secretName: {{ $from.existingSecret }}
    defaultMode: 0440
    items: [{key: {{ $from.key }}, path: {{ $from.key }}}]
{{- end }}
{{- end }}

{{/* What every pod has. */}}
{{- define "rag.pod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "rag.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false # they would set RAG_… variables of their own
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "rag.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A pod of the RayJob. Call with (list $ "container" resources). */}}
{{- define "rag.bulkPod" -}}
{{- $root := index . 0 -}}
{{- $at := list $root "bulk" -}}
{{- $documents := printf "/documents/%s" $root.Values.bulk.folder -}}
metadata:
  labels: {{- include "rag.selector" $at | nindent 4 }}
  {{- with $root.Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "rag.pod" $at | nindent 2 }}
  {{- if eq (index . 1) "submitter" }}
  restartPolicy: Never
  {{- end }}
  containers:
    - name: {{ index . 1 }}
      image: {{ include "rag.image" $root.Values.bulk.image }}
      env:
        - {name: HOME, value: /tmp}
        - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
        {{- include "rag.env" $at | trim | nindent 8 }}
      resources: {{- toYaml (index . 2) | nindent 8 }}
      securityContext: {{- include "rag.securityContext" $root | nindent 8 }}
      volumeMounts:
        {{- include "rag.mounts" $at | nindent 8 }}
        - {name: documents, mountPath: {{ $documents }}, readOnly: true}
  volumes:
    {{- include "rag.volumes" $at | nindent 4 }}
    - name: documents
      persistentVolumeClaim: {claimName: {{ $root.Values.bulk.existingClaim }}, readOnly: true}
{{- end }}

{{/* Says everything that is missing at once. */}}
{{- define "rag.check" -}}
{{- $root := . -}}
{{- $faults := list -}}
{{- $parts := include "rag.parts" . | fromJsonArray -}}
{{- $images := $parts -}}
{{- range $job := list "bulk" "build" -}}
  {{- if (index $root.Values $job).enabled -}}{{- $images = append $images $job -}}{{- end -}}
{{- end -}}
{{- range $part := $images -}}
  {{- $image := (index $root.Values $part).image -}}
  {{- if not $image.repository -}}
    {{- $faults = append $faults (printf "%s.image.repository is empty; name the image, without tag and digest" $part) -}}
  {{- end -}}
  {{- if and $root.Values.requireDigest (not $image.digest) -}}
    {{- $faults = append $faults (printf "%s.image.digest is empty%s; give the digest that was printed when the image was pushed (sha256:…), or for a trial set requireDigest=false and %s.image.tag" $part (ternary (printf " and the tag %q may move" $image.tag) "" (ne $image.tag "")) $part) -}}
  {{- else if not (or $image.digest $image.tag) -}}
    {{- $faults = append $faults (printf "%s.image has neither digest nor tag; give one of them" $part) -}}
  {{- else if and (eq $image.tag "latest") (not $image.digest) -}}
    {{- $faults = append $faults (printf "%s.image.tag is \"latest\", which moves; give a version" $part) -}}
  {{- end -}}
{{- end -}}
{{- range $part := $parts -}}
  {{- $own := include "rag.own" (list $root $part) | fromJsonArray -}}
  {{- range $name, $_ := (index $root.Values $part).settings -}}
    {{- if regexMatch "_(API_KEYS?|SECRET)(_FILE)?$" $name -}}
      {{- $faults = append $faults (printf "%s.settings.%s: a key does not belong into values; name a Secret (apiKeys, qdrant.apiKey, llm.apiKey, embedding.apiKey, reranker.apiKey, linkSecret)" $part $name) -}}
    {{- else if has $name $own -}}
      {{- $faults = append $faults (printf "%s.settings.%s is set by the chart; change the value it comes from (see values.yaml)" $part $name) -}}
    {{- end -}}
  {{- end -}}
  {{- $replicas := (index $root.Values $part).replicas -}}
  {{- if gt (int $replicas.min) (int $replicas.max) -}}
    {{- $faults = append $faults (printf "%s.replicas: min %d is above max %d" $part (int $replicas.min) (int $replicas.max)) -}}
  {{- end -}}
{{- end -}}
{{- if not .Values.apiKeys.existingSecret -}}
  {{- $faults = append $faults "apiKeys.existingSecret is empty; the service answers other machines only with keys, so name a Secret that holds them (docs/kubernetes.md)" -}}
{{- end -}}
{{- if lt (int .Values.drainSeconds) (int .Values.deadlineSeconds) -}}
  {{- $faults = append $faults (printf "drainSeconds %d is below deadlineSeconds %d; a request under way would be given up at a rolling update" (int .Values.drainSeconds) (int .Values.deadlineSeconds)) -}}
{{- end -}}
{{- if and (has .Values.llm.pace (list "local" "reasoning")) (lt (int .Values.deadlineSeconds) 330) -}}
  {{- $faults = append $faults (printf "deadlineSeconds %d is below the 330 that an answer may take with llm.pace %s" (int .Values.deadlineSeconds) .Values.llm.pace) -}}
{{- end -}}
{{- range $name := list "llm" "embedding" -}}
  {{- $model := index $root.Values $name -}}
  {{- if and $model.baseUrl (not $model.model) -}}
    {{- $faults = append $faults (printf "%s.model is empty although %s.baseUrl is set; name the model" $name $name) -}}
  {{- end -}}
  {{- if and $root.Values.networkPolicy.enabled $model.baseUrl (not (index $root.Values.networkPolicy $name)) -}}
    {{- $faults = append $faults (printf "networkPolicy.%s is empty although %s.baseUrl is set; say where that server runs, or nothing reaches it" $name $name) -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.reranker.url (not .Values.networkPolicy.reranker) -}}
  {{- $faults = append $faults "networkPolicy.reranker is empty although reranker.url is set; say where that server runs, or nothing reaches it" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.qdrant.release) (not .Values.networkPolicy.qdrant) -}}
  {{- $faults = append $faults "networkPolicy.qdrant is empty although qdrant.release is; say where Qdrant runs, or nothing reaches it" -}}
{{- end -}}
{{- range $job := list "ingest" "bulk" -}}
  {{- $values := index $root.Values $job -}}
  {{- if and $values.enabled (not $values.existingClaim) -}}
    {{- $faults = append $faults (printf "%s.existingClaim is empty although %s.enabled; name the claim that holds the documents" $job $job) -}}
  {{- end -}}
{{- end -}}
{{- if .Values.build.enabled -}}
  {{- range $name := list "engine" "tlsSecret" "args" -}}
    {{- if not (index $root.Values.build $name) -}}
      {{- $faults = append $faults (printf "build.%s is empty although build.enabled (see values.yaml)" $name) -}}
    {{- end -}}
  {{- end -}}
  {{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.engine) -}}
    {{- $faults = append $faults "networkPolicy.engine is empty although build.enabled; say where the engine runs, or nothing reaches it" -}}
  {{- end -}}
{{- end -}}
{{- if gt (len .Release.Name) 40 -}}
  {{- $faults = append $faults (printf "the release name %q has more than 40 characters; choose a shorter one" .Release.Name) -}}
{{- end -}}
{{- if $faults -}}
  {{- fail (printf "\n\nThese values need a look:\n  - %s\n" (join "\n  - " $faults)) -}}
{{- end -}}
{{- end }}
