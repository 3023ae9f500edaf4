// MinIO's server behind a guard (guard.go). Everything else is MinIO's last public commit as it is, with its dependencies
// in the versions of this go.mod.
package main

import (
	"os"
	_ "unsafe" // for go:linkname

	"github.com/klauspost/cpuid/v2"
	minio "github.com/minio/minio/cmd"
	"github.com/minio/mux"
)

// What MinIO puts before each of its handlers. It offers no other way to come before them.
//
//go:linkname middlewares github.com/minio/minio/cmd.globalMiddlewares
var middlewares []mux.MiddlewareFunc

func main() {
	// Both as MinIO's own program does it: a package of it that nobody else may import.
	os.Setenv("TZ", "UTC")
	cpuid.CPU.Disable(cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512CD, cpuid.AVX512DQ, cpuid.AVX512ER, cpuid.AVX512FP16,
		cpuid.AVX512IFMA, cpuid.AVX512PF, cpuid.AVX512VBMI, cpuid.AVX512VBMI2, cpuid.AVX512VL, cpuid.AVX512VNNI,
		cpuid.AVX512VP2INTERSECT, cpuid.AVX512VPOPCNTDQ)
	// In front of all others, MinIO's own forwarding of requests among them.
	middlewares = append([]mux.MiddlewareFunc{guard}, middlewares...)
	minio.Main(os.Args)
}
