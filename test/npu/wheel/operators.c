/* Host runtime: tensor descriptions and the few operators that torch_npu's C++ calls itself.
 *
 * Everything else reaches the arithmetic through aten, see site/npu_host_kernels.py; whatever
 * arrives here and is not written below fails with its name.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "acl/acl.h"
#include "acl/acl_op_compiler.h"

enum { MAX_DIMS = 25, NOT_IMPLEMENTED = 500002 };

struct aclTensorDesc { aclDataType type; aclFormat format; int ndim; int64_t dims[MAX_DIMS]; };
struct aclDataBuffer { void *data; size_t size; };

/* ---- descriptions ---------------------------------------------------------------------------- */

aclError aclSetTensorShape(aclTensorDesc *desc, int ndim, const int64_t *dims) { return 0; }
aclError aclSetTensorFormat(aclTensorDesc *desc, aclFormat format) { return 0; }
aclError aclSetTensorPlaceMent(aclTensorDesc *desc, aclMemType type) { return 0; }
void aclSetTensorDescName(aclTensorDesc *desc, const char *name) {}

aclTensorDesc *aclCreateTensorDesc(aclDataType type, int ndim, const int64_t *dims,
                                   aclFormat format) {
    aclTensorDesc *desc = calloc(1, sizeof *desc);
    if (!desc || ndim > MAX_DIMS) return NULL;
    desc->type = type;
    desc->format = format;
    desc->ndim = ndim;
    if (ndim > 0) memcpy(desc->dims, dims, (size_t)ndim * sizeof *dims);
    return desc;
}
void aclDestroyTensorDesc(const aclTensorDesc *desc) { free((void *)desc); }
aclDataType aclGetTensorDescType(const aclTensorDesc *desc) { return desc->type; }
aclFormat aclGetTensorDescFormat(const aclTensorDesc *desc) { return desc->format; }
size_t aclGetTensorDescNumDims(const aclTensorDesc *desc) { return (size_t)desc->ndim; }
aclError aclGetTensorDescDimV2(const aclTensorDesc *desc, size_t index, int64_t *size) {
    *size = desc->dims[index];
    return 0;
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) {
    aclDataBuffer *buffer = malloc(sizeof *buffer);
    if (buffer) *buffer = (aclDataBuffer){data, size};
    return buffer;
}
aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
    free((void *)buffer);
    return 0;
}

/* The operators below have no attributes, so setting one has no effect (see build.py). */
aclopAttr *aclopCreateAttr(void) { return malloc(1); }
void aclopDestroyAttr(const aclopAttr *attr) { free((void *)attr); }

/* ---- operators ------------------------------------------------------------------------------- */

static int64_t count_of(const aclTensorDesc *desc) {
    int64_t count = 1;
    for (int d = 0; d < desc->ndim; d++) count *= desc->dims[d];
    return count;
}

/* The overflow flag of first-generation chips; the kernel table raises it. */
int32_t host_runtime_overflow;

static void float_status(const char *name, const aclDataBuffer *status) {
    if (!strcmp(name, "NPUClearFloatStatus")) host_runtime_overflow = 0;
    memset(status->data, 0, status->size);
    if (host_runtime_overflow && status->size >= sizeof(float)) *(float *)status->data = 1.0f;
}

static size_t width_of(aclDataType type) {
    switch (type) {
    case ACL_INT8: case ACL_UINT8: case ACL_BOOL: return 1;
    case ACL_FLOAT16: case ACL_BF16: case ACL_INT16: return 2;
    case ACL_FLOAT: case ACL_INT32: return 4;
    case ACL_INT64: case ACL_DOUBLE: return 8;
    default: return 0;
    }
}

/* Output full of the one element of the second input; the first is the shape. */
static bool fill(int num_inputs, const aclTensorDesc *const in_desc[],
                 const aclDataBuffer *const in[], const aclTensorDesc *out_desc,
                 aclDataBuffer *out) {
    size_t width = width_of(out_desc->type);
    if (num_inputs != 2 || !width || in_desc[1]->type != out_desc->type || in[1]->size < width)
        return false;
    for (size_t at = 0; at + width <= out->size; at += width)
        memcpy((char *)out->data + at, in[1]->data, width);
    return true;
}

/* Constant padding; inputs: data, int32 (before, after) per dimension, the constant. */
static bool pad(int num_inputs, const aclTensorDesc *const in_desc[],
                const aclDataBuffer *const in[], const aclTensorDesc *out_desc,
                aclDataBuffer *out) {
    const aclTensorDesc *from = in_desc[0];
    size_t width = width_of(out_desc->type);
    if (num_inputs != 3 || !width || from->type != out_desc->type || in_desc[1]->type != ACL_INT32 ||
        from->ndim != out_desc->ndim || count_of(in_desc[1]) != 2 * from->ndim)
        return false;
    const int32_t *paddings = in[1]->data;
    for (int64_t i = 0; i < count_of(out_desc); i++) {
        int64_t rest = i, at = 0, step = 1;
        bool inside = true;
        for (int d = from->ndim - 1; d >= 0; d--) {
            int64_t position = rest % out_desc->dims[d] - paddings[2 * d];
            rest /= out_desc->dims[d];
            inside = inside && position >= 0 && position < from->dims[d];
            at += position * step;
            step *= from->dims[d];
        }
        memcpy((char *)out->data + i * width,
               inside ? (char *)in[0]->data + at * width : (char *)in[2]->data, width);
    }
    return true;
}

/* Between int32 and the one-byte types, which HCCL reduces as int32. */
static bool cast(const aclTensorDesc *from, const aclDataBuffer *in, const aclTensorDesc *to,
                 aclDataBuffer *out) {
    bool widening = width_of(from->type) == 1 && to->type == ACL_INT32;
    bool narrowing = from->type == ACL_INT32 && width_of(to->type) == 1;
    if (!widening && !narrowing) return false;
    for (int64_t i = 0; i < count_of(to); i++) {
        if (widening)
            ((int32_t *)out->data)[i] = from->type == ACL_INT8 ? ((int8_t *)in->data)[i]
                                                               : ((uint8_t *)in->data)[i];
        else
            ((uint8_t *)out->data)[i] = to->type == ACL_BOOL ? ((int32_t *)in->data)[i] != 0
                                                             : (uint8_t)((int32_t *)in->data)[i];
    }
    return true;
}

static aclError execute(const char *name, int num_inputs, const aclTensorDesc *const in_desc[],
                        const aclDataBuffer *const in[], int num_outputs,
                        const aclTensorDesc *const out_desc[], aclDataBuffer *const out[]) {
    if (num_outputs == 1 && strstr(name, "FloatStatus")) {
        float_status(name, num_inputs ? in[0] : out[0]);     /* the chip writes into its input */
        return 0;
    }
    if (!strcmp(name, "Identity") && num_inputs == 1 && in[0]->size == out[0]->size) {
        memmove(out[0]->data, in[0]->data, in[0]->size);
        return 0;
    }
    if (!strcmp(name, "Fill") && fill(num_inputs, in_desc, in, out_desc[0], out[0])) return 0;
    if (!strcmp(name, "PadV3") && pad(num_inputs, in_desc, in, out_desc[0], out[0])) return 0;
    if (!strcmp(name, "Cast") && cast(in_desc[0], in[0], out_desc[0], out[0])) return 0;
    fprintf(stderr, "host runtime: no operator %s with", name);
    for (int i = 0; i < num_inputs; i++)
        fprintf(stderr, " %lld of type %d,", (long long)count_of(in_desc[i]), in_desc[i]->type);
    for (int i = 0; i < num_outputs; i++)
        fprintf(stderr, " -> %lld of type %d", (long long)count_of(out_desc[i]), out_desc[i]->type);
    fprintf(stderr, "\n");
    return NOT_IMPLEMENTED;
}

aclError aclopCompileAndExecute(
    const char *name, int num_inputs, const aclTensorDesc *const in_desc[],
    const aclDataBuffer *const in[], int num_outputs, const aclTensorDesc *const out_desc[],
    aclDataBuffer *const out[], const aclopAttr *attr, aclopEngineType engine,
    aclopCompileType compile, const char *path, aclrtStream stream) {
    return execute(name, num_inputs, in_desc, in, num_outputs, out_desc, out);
}

aclError aclopCompileAndExecuteV2(
    const char *name, int num_inputs, aclTensorDesc *in_desc[], aclDataBuffer *in[],
    int num_outputs, aclTensorDesc *out_desc[], aclDataBuffer *out[], aclopAttr *attr,
    aclopEngineType engine, aclopCompileType compile, const char *path, aclrtStream stream) {
    return execute(name, num_inputs, (const aclTensorDesc *const *)in_desc,
                   (const aclDataBuffer *const *)in, num_outputs,
                   (const aclTensorDesc *const *)out_desc, out);
}
