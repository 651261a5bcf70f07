/* Host runtime: HCCL between processes of one machine, through a shared-memory object.
 *
 * Every rank has a slot of 1 MiB there; longer buffers go through it in pieces, with a barrier
 * after writing and one after reading. Reductions add the slots in rank order on every rank, so
 * that all ranks get the same bits. A rank that waits gives up when another one's process is gone,
 * or after HCCL_EXEC_TIMEOUT seconds (1800).
 *
 * The numbers of types, operations and statuses are those of the wheel's hccl_types.h, which is
 * C++ and cannot be included here.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, E_PARA = 1, E_MEMORY = 3, E_NOT_SUPPORT = 5, E_UNAVAILABLE = 7,
       E_TIMEOUT = 9 };
enum { INT8 = 0, INT16 = 1, INT32 = 2, FP16 = 3, FP32 = 4, INT64 = 5, UINT8 = 7, FP64 = 10,
       BF16 = 11 };
enum { SUM = 0, PROD = 1, MAX = 2, MIN = 3 };
enum { ID_BYTES = 4108, NAME_BYTES = 128, HEADER = 4096, SLOT = 1 << 20, MAX_RANKS = 256 };

typedef struct { char name[ID_BYTES]; } RootInfo;
typedef struct {
    char name[NAME_BYTES];
    uint32_t rank, size;
    uint64_t round;
    size_t bytes;
    char *memory;       /* Header, then one slot per rank */
} Comm;

typedef struct {
    _Atomic uint64_t arrived;
    _Atomic int32_t process[MAX_RANKS];     /* 0 until the rank has joined */
} Header;

static char *slot(const Comm *comm, uint32_t rank) {
    return comm->memory + HEADER + (size_t)rank * SLOT;
}

static size_t size_of(int type) {
    switch (type) {
    case INT8: case UINT8: return 1;
    case INT16: case FP16: case BF16: return 2;
    case INT32: case FP32: return 4;
    case INT64: case FP64: return 8;
    default: return 0;
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + time.tv_nsec / 1e9;
}

/* Rank whose process has ended, or -1. */
static int lost_rank(const Comm *comm) {
    Header *header = (Header *)comm->memory;
    for (uint32_t rank = 0; rank < comm->size; rank++) {
        int32_t process = atomic_load(&header->process[rank]);
        if (process && kill(process, 0) && errno == ESRCH) return (int)rank;
    }
    return -1;
}

/* The count of arrivals only grows: round r is complete when it reaches r times the ranks. */
static int meet(Comm *comm) {
    _Atomic uint64_t *arrived = &((Header *)comm->memory)->arrived;
    const char *limit = getenv("HCCL_EXEC_TIMEOUT");
    double end = now() + (limit && atof(limit) > 0 ? atof(limit) : 1800);
    atomic_fetch_add(arrived, 1);
    comm->round++;
    for (int spins = 0; atomic_load(arrived) < comm->round * comm->size; spins++) {
        if (spins < 100) continue;
        int lost = spins % 1000 == 999 ? lost_rank(comm) : -1;
        /* The last thing a rank does may be its arrival. */
        if (lost >= 0 && atomic_load(arrived) < comm->round * comm->size) {
            fprintf(stderr, "host runtime: HCCL rank %d is gone\n", lost);
            return E_UNAVAILABLE;
        }
        if (now() > end) {
            fprintf(stderr, "host runtime: HCCL rank %u waited too long\n", comm->rank);
            return E_TIMEOUT;
        }
        usleep(spins < 1000 ? 1 : 200);
    }
    return SUCCESS;
}

#define TRY(call) do { int status_ = (call); if (status_) return status_; } while (0)

/* ---- joining --------------------------------------------------------------------------------- */

int HcclGetRootInfo(RootInfo *info) {
    static int count;
    memset(info, 0, sizeof *info);
    snprintf(info->name, NAME_BYTES, "/facezoo_hccl_%d_%lld_%d", (int)getpid(),
             (long long)(now() * 1e6), count++);
    return SUCCESS;
}

int HcclCommInitRootInfo(uint32_t size, const RootInfo *info, uint32_t rank, void **result) {
    Comm *comm = calloc(1, sizeof *comm);
    if (!comm || rank >= size || size > MAX_RANKS) return E_PARA;
    snprintf(comm->name, NAME_BYTES, "%s", info->name);
    comm->rank = rank;
    comm->size = size;
    comm->bytes = HEADER + (size_t)size * SLOT;
    int file = shm_open(comm->name, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, (off_t)comm->bytes)) {
        perror("host runtime: shared memory for HCCL");
        return E_MEMORY;
    }
    comm->memory = mmap(NULL, comm->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (comm->memory == MAP_FAILED) return E_MEMORY;
    atomic_store(&((Header *)comm->memory)->process[rank], (int32_t)getpid());
    TRY(meet(comm));
    if (!rank) shm_unlink(comm->name);      /* all have it mapped: nothing is left behind */
    *result = comm;
    return SUCCESS;
}
int HcclCommInitRootInfoConfig(uint32_t size, const RootInfo *info, uint32_t rank,
                               const void *config, void **comm) {
    return HcclCommInitRootInfo(size, info, rank, comm);
}

int HcclCommDestroy(Comm *comm) {
    munmap(comm->memory, comm->bytes);
    free(comm);
    return SUCCESS;
}
int HcclGetCommName(Comm *comm, char *name) {
    memcpy(name, comm->name, NAME_BYTES);
    return SUCCESS;
}
int HcclGetCommAsyncError(Comm *comm, int *status) {
    *status = SUCCESS;
    return SUCCESS;
}
uint32_t HcclGetCommConfigCapability(void) { return 0; }
int HcclSetConfig(int option, int32_t value) { return SUCCESS; }

/* ---- arithmetic ------------------------------------------------------------------------------ */

static float bf16_to_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}
static uint16_t float_to_bf16(float value) {    /* to nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#define COMBINE(a, b) \
    (op == SUM ? (a) + (b) : op == PROD ? (a) * (b) : op == MAX ? ((a) > (b) ? (a) : (b)) \
                                                                : ((a) < (b) ? (a) : (b)))
#define LOOP(type) \
    for (size_t i = 0; i < count; i++) ((type *)to)[i] = (type)COMBINE(((type *)to)[i], \
                                                                       ((const type *)from)[i]);

static void combine(void *to, const void *from, size_t count, int type, int op) {
    switch (type) {
    case INT8: LOOP(int8_t) break;
    case UINT8: LOOP(uint8_t) break;
    case INT16: LOOP(int16_t) break;
    case INT32: LOOP(int32_t) break;
    case INT64: LOOP(int64_t) break;
    case FP16: LOOP(_Float16) break;
    case FP32: LOOP(float) break;
    case FP64: LOOP(double) break;
    case BF16:
        for (size_t i = 0; i < count; i++) {
            float a = bf16_to_float(((uint16_t *)to)[i]);
            float b = bf16_to_float(((const uint16_t *)from)[i]);
            ((uint16_t *)to)[i] = float_to_bf16(COMBINE(a, b));
        }
    }
}

/* ---- collectives ----------------------------------------------------------------------------- */

/* Reduces `bytes` of every rank's `send`; the result goes to `receive` where that is not NULL. */
static int reduce(Comm *comm, const char *send, char *receive, size_t count, int type, int op) {
    size_t width = size_of(type), bytes = count * width;
    if (!width || op < SUM || op > MIN) return E_NOT_SUPPORT;
    for (size_t start = 0; start < bytes; start += SLOT) {
        size_t part = bytes - start < SLOT ? bytes - start : SLOT;
        memcpy(slot(comm, comm->rank), send + start, part);
        TRY(meet(comm));
        if (receive) {
            memcpy(receive + start, slot(comm, 0), part);
            for (uint32_t rank = 1; rank < comm->size; rank++)
                combine(receive + start, slot(comm, rank), part / width, type, op);
        }
        TRY(meet(comm));
    }
    return SUCCESS;
}

int HcclAllReduce(void *send, void *receive, uint64_t count, int type, int op, Comm *comm,
                  void *stream) {
    return reduce(comm, send, receive, count, type, op);
}
int HcclReduce(void *send, void *receive, uint64_t count, int type, int op, uint32_t root,
               Comm *comm, void *stream) {
    return reduce(comm, send, comm->rank == root ? receive : NULL, count, type, op);
}
int HcclReduceScatter(void *send, void *receive, uint64_t count, int type, int op, Comm *comm,
                      void *stream) {
    for (uint32_t rank = 0; rank < comm->size; rank++)
        TRY(reduce(comm, (char *)send + rank * count * size_of(type),
                   rank == comm->rank ? receive : NULL, count, type, op));
    return SUCCESS;
}

int HcclAllGather(void *send, void *receive, uint64_t count, int type, Comm *comm, void *stream) {
    size_t bytes = count * size_of(type);
    if (!size_of(type)) return E_NOT_SUPPORT;
    for (size_t start = 0; start < bytes; start += SLOT) {
        size_t part = bytes - start < SLOT ? bytes - start : SLOT;
        memcpy(slot(comm, comm->rank), (char *)send + start, part);
        TRY(meet(comm));
        for (uint32_t rank = 0; rank < comm->size; rank++)
            memcpy((char *)receive + rank * bytes + start, slot(comm, rank), part);
        TRY(meet(comm));
    }
    return SUCCESS;
}

int HcclBroadcast(void *data, uint64_t count, int type, uint32_t root, Comm *comm, void *stream) {
    size_t bytes = count * size_of(type);
    if (!size_of(type)) return E_NOT_SUPPORT;
    for (size_t start = 0; start < bytes; start += SLOT) {
        size_t part = bytes - start < SLOT ? bytes - start : SLOT;
        if (comm->rank == root) memcpy(slot(comm, root), (char *)data + start, part);
        TRY(meet(comm));
        if (comm->rank != root) memcpy((char *)data + start, slot(comm, root), part);
        TRY(meet(comm));
    }
    return SUCCESS;
}
