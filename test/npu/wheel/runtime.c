/* Host runtime: the part of CANN that torch_npu calls, on ordinary memory and one processor.
 *
 * Linked into libascendcl.so; libhccl.so and the four other libraries torch_npu needs depend on it.
 * Streams run at once, events store the clock, "device" memory comes from malloc. An operator of
 * the old ACL interface that is not written here fails with its name: an operator that silently
 * succeeds would leave garbage in its output. The arithmetic of aten is in site/npu_host_kernels.py.
 *
 * Environment: FACEZOO_NPU_CARDS (2), FACEZOO_NPU_SOC (Ascend910B1).
 * The prototypes come from the headers inside the torch_npu wheel (include/third_party/acl/inc).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "acl/acl.h"
#include "acl/acl_op_compiler.h"

enum { INVALID_DEVICE = 107001, NO_CONTEXT = 107002, NOT_IMPLEMENTED = 500002 };
#define TOTAL_MEMORY ((size_t)64 << 30)
#define OK return 0

static _Thread_local char last_error[512];

static aclError refuse(aclError code, const char *what, const char *name) {
    snprintf(last_error, sizeof last_error, "host runtime: %s %s", what, name);
    fprintf(stderr, "%s\n", last_error);
    return code;
}

/* Called by the stubs that install.sh generates for every symbol not defined in these files. */
long host_runtime_missing(const char *name) { return refuse(NOT_IMPLEMENTED, "no function", name); }

const char *aclGetRecentErrMsg(void) { return last_error; }

/* ---- device ---------------------------------------------------------------------------------- */

static _Thread_local int32_t current = -1;

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

aclError aclInit(const char *path) { OK; }
aclError aclFinalize(void) { OK; }

aclError aclrtGetDeviceCount(uint32_t *count) {
    *count = (uint32_t)atoi(setting("FACEZOO_NPU_CARDS", "2"));
    OK;
}

aclError aclrtSetDevice(int32_t device) {
    uint32_t count;
    aclrtGetDeviceCount(&count);
    if (device < 0 || device >= (int32_t)count)
        return refuse(INVALID_DEVICE, "no card of this number in", "aclrtSetDevice");
    current = device;
    OK;
}

aclError aclrtGetDevice(int32_t *device) {
    *device = current;
    return current < 0 ? NO_CONTEXT : 0;
}

aclError aclrtResetDevice(int32_t device) { OK; }

/* A context is its card's number, plus one to tell it from NULL. */
aclError aclrtGetCurrentContext(aclrtContext *context) {
    *context = (aclrtContext)(intptr_t)(current + 1);
    return current < 0 ? NO_CONTEXT : 0;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    current = (int32_t)(intptr_t)context - 1;
    OK;
}

const char *aclrtGetSocName(void) { return setting("FACEZOO_NPU_SOC", "Ascend910B1"); }

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo info, int64_t *value) {
    *value = 1;
    OK;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
    *can = device != peer;
    OK;
}
aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) { OK; }
aclError aclrtSynchronizeDevice(void) { OK; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) { OK; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) { OK; }
aclError aclrtSetOpExecuteTimeOut(uint32_t timeout) { OK; }
aclError aclrtSetOpWaitTimeout(uint32_t timeout) { OK; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { OK; }
aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) { OK; }
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t *value) {
    *value = 0;
    OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t in_use;   /* only grows: a lower bound of what is free is enough */

static aclError allocate(void **memory, size_t alignment, size_t size) {
    if (posix_memalign(memory, alignment, size + 512))
        return refuse(ACL_ERROR_BAD_ALLOC, "out of memory in", "aclrtMalloc");
    __atomic_fetch_add(&in_use, size, __ATOMIC_RELAXED);
    OK;
}

aclError aclrtMalloc(void **memory, size_t size, aclrtMemMallocPolicy policy) {
    return allocate(memory, 512, size);
}
aclError aclrtMallocAlign32(void **memory, size_t size, aclrtMemMallocPolicy policy) {
    return allocate(memory, 512, size);
}
aclError aclrtMallocHost(void **memory, size_t size) { return allocate(memory, 64, size); }

aclError aclrtFree(void *memory) {
    free(memory);
    OK;
}
aclError aclrtFreeHost(void *memory) { return aclrtFree(memory); }

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t size, aclrtMemcpyKind kind) {
    if (size > room) return refuse(ACL_ERROR_INVALID_PARAM, "copy larger than its target in",
                                   "aclrtMemcpy");
    memmove(to, from, size);
    OK;
}
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size,
                          aclrtMemcpyKind kind, aclrtStream stream) {
    return aclrtMemcpy(to, room, from, size, kind);
}

aclError aclrtMemset(void *memory, size_t room, int32_t value, size_t size) {
    if (size > room) return refuse(ACL_ERROR_INVALID_PARAM, "fill larger than its target in",
                                   "aclrtMemset");
    memset(memory, value, size);
    OK;
}

aclError aclrtGetMemInfo(aclrtMemAttr kind, size_t *left, size_t *total) {
    size_t used = __atomic_load_n(&in_use, __ATOMIC_RELAXED);
    *total = TOTAL_MEMORY;
    *left = used < TOTAL_MEMORY / 2 ? TOTAL_MEMORY - used : TOTAL_MEMORY / 2;
    OK;
}

/* ---- streams and events ---------------------------------------------------------------------- */

aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t priority, uint32_t flag) {
    *stream = calloc(1, 64);
    OK;
}
aclError aclrtCreateStream(aclrtStream *stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) { return aclrtFree(stream); }
aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t flag) { OK; }
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtFree(stream); }
aclError aclrtSynchronizeStream(aclrtStream stream) { OK; }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) { OK; }
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) { OK; }

aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) {
    *event = calloc(1, sizeof(struct timespec));
    OK;
}
aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag) {
    return aclrtCreateEventWithFlag(event, flag);
}
aclError aclrtDestroyEvent(aclrtEvent event) { return aclrtFree(event); }
aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) { OK; }
aclError aclrtSynchronizeEvent(aclrtEvent event) { OK; }

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
    clock_gettime(CLOCK_MONOTONIC, event);
    OK;
}
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
    *status = ACL_EVENT_RECORDED_STATUS_COMPLETE;
    OK;
}
aclError aclrtEventElapsedTime(float *milliseconds, aclrtEvent first, aclrtEvent last) {
    const struct timespec *from = first, *to = last;
    *milliseconds = (float)((to->tv_sec - from->tv_sec) * 1e3 + (to->tv_nsec - from->tv_nsec) / 1e6);
    OK;
}
aclError aclrtProcessReport(int32_t timeout) {
    usleep(10000);
    OK;
}

/* ---- profiling, dumps, compile options: accepted and without effect -------------------------- */

#define ACCEPTED(name) long name(void) { OK; }
ACCEPTED(MsprofRegisterCallback) ACCEPTED(MsprofReportAdditionalInfo) ACCEPTED(MsprofReportApi)
ACCEPTED(MsprofReportCompactInfo) ACCEPTED(MsprofSysCycleTime) ACCEPTED(MsprofGetHashId)
void aclAppLog(aclLogLevel level, const char *function, const char *file, uint32_t line,
               const char *format, ...) {}

#define COMPILE_OPTIONS 32
static char compile_options[COMPILE_OPTIONS][64];

aclError aclSetCompileopt(aclCompileOpt option, const char *value) {
    if (option < COMPILE_OPTIONS)
        snprintf(compile_options[option], sizeof compile_options[0], "%s", value);
    OK;
}
size_t aclGetCompileoptSize(aclCompileOpt option) { return sizeof compile_options[0]; }
aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t length) {
    snprintf(value, length, "%s", option < COMPILE_OPTIONS ? compile_options[option] : "");
    OK;
}
