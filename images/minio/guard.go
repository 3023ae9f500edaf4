package main

import (
	"cmp"
	"encoding/xml"
	"net/http"
	"slices"
	"strings"
)

const (
	algorithm       = "AWS4-HMAC-SHA256"
	unsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	payloadDigest   = "X-Amz-Content-Sha256"
)

// Headers by which MinIO's servers tell each other what no client may say: encryption, times and states of replicas.
// MinIO reads those of a new object's metadata from the query as well.
var betweenServers = []string{"X-Minio-Replication-", "X-Minio-Source-", "X-Amz-Replication-Status"}

// Snowball, by which one archive becomes many objects.
var snowball = []string{"X-Amz-Meta-Snowball-", "X-Amz-Meta-Minio-Snowball-"}

// guard answers what MinIO must not be asked, and passes on everything else.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if code, reason := refusal(request); code != 0 {
			refuse(answer, request, code, reason)
			return
		}
		next.ServeHTTP(answer, request)
	})
}

// refusal tells why a request ends here, with the status of the answer; 0 for one that goes on.
//
// It looks at what a request says and proves nothing: what goes on is verified by MinIO. Each rule closes a way past
// that, or something that the platform does not use and that is known to be weak (docs/decisions/0016).
func refusal(request *http.Request) (int, string) {
	header, query := request.Header, request.URL.Query()
	signed := strings.HasPrefix(header.Get("Authorization"), algorithm)
	between := cmp.Or(sent(header, betweenServers), sent(query, betweenServers))
	switch {
	case between != "":
		// GHSA-3rh2-v3gr-35p9 (CVE-2026-34204)
		return http.StatusForbidden, between + " is for servers that replicate, and this one does not"
	case sent(header, snowball) != "":
		// GHSA-9c4q-hq6p-c237 (CVE-2026-40344)
		return http.StatusNotImplemented, "an archive is not unpacked here: upload each object"
	case header.Get(payloadDigest) == unsignedTrailer && !signed:
		// GHSA-hv4r-mvr4-25vw (CVE-2026-41145): MinIO verifies the header alone and takes the key from the query
		return http.StatusForbidden, "an upload with an unsigned trailer is signed in its header"
	case request.Method == http.MethodPost && query.Has("select"):
		// GHSA-h749-fxx7-pwpg (CVE-2026-39414)
		return http.StatusNotImplemented, "S3 Select is closed: read the object"
	case request.Method == http.MethodPost && strings.Contains(strings.ToLower(header.Get("Content-Type")), "multipart/form-data"):
		// Fields of a form stand for headers, of which the rules above know nothing.
		return http.StatusNotImplemented, "uploads by form are closed: put the object"
	}
	if name := unsigned(header, query.Get("X-Amz-SignedHeaders"), signed); name != "" {
		return http.StatusForbidden, name + " is sent and not signed"
	}
	return 0, ""
}

// unsigned names a header of S3's that is sent beside a signature that does not cover it, or nothing. With an
// x-amz-copy-source of their own, whoever was given one signed PUT could copy what its signer may read.
func unsigned(header http.Header, presigned string, signed bool) string {
	names := presigned
	if signed {
		_, rest, _ := strings.Cut(header.Get("Authorization"), "SignedHeaders=")
		names, _, _ = strings.Cut(rest, ",")
	} else if presigned == "" {
		return "" // Nobody's request, which MinIO lets do nothing here.
	}
	covered := strings.Split(strings.ToLower(strings.TrimSpace(names)), ";")
	for name := range header {
		lower := strings.ToLower(name)
		if strings.HasPrefix(lower, "x-amz-") && name != payloadDigest && !slices.Contains(covered, lower) {
			return name
		}
	}
	return ""
}

// sent names a header, or a parameter of the query, that begins with one of the prefixes; nothing where there is none.
func sent(given map[string][]string, prefixes []string) string {
	for name := range given {
		for _, prefix := range prefixes {
			if strings.HasPrefix(http.CanonicalHeaderKey(name), prefix) {
				return name
			}
		}
	}
	return ""
}

// refuse answers as S3 does.
func refuse(answer http.ResponseWriter, request *http.Request, status int, message string) {
	code := "AccessDenied"
	if status == http.StatusNotImplemented {
		code = "NotImplemented"
	}
	answer.Header().Set("Content-Type", "application/xml")
	answer.Header().Set("Connection", "close") // What it would have sent is not read.
	answer.WriteHeader(status)
	body, _ := xml.Marshal(struct {
		XMLName                 xml.Name `xml:"Error"`
		Code, Message, Resource string
	}{Code: code, Message: message, Resource: request.URL.Path})
	_, _ = answer.Write([]byte(xml.Header + string(body)))
}
