/* Fault injection: counts the operations by which a process changes files below one folder, and makes one of them fail.
 *
 * Preloaded before the C library. Nothing happens until fault_arm() is called; from then on every new file, write,
 * truncation, flush to disk, rename, link, removal and new folder below the root is counted in order, and at the
 * requested one the process is killed before it or halfway through a write, or an error is returned, from there on as
 * often as asked. Reads (open to read, stat, read, listing a folder) are counted apart and may return an error likewise.
 * Operations may be recorded: a line `name, path, other path, offset, size`, separated by tabs, and what was written.
 * The time of day may be shifted. Below the folder that FAULT_NO_LOCKS names, files have no locks.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NOTHING = 0, KILL = 1, HALF = 2, ERROR = 1000, READ_ERROR = 2000 }; /* the last two with an errno added */

static char root[PATH_MAX];
static size_t root_length;
static long fault_at, fault_times;
static int fault, record_fd = -1;
static atomic_long change_count, read_count, clock_jump_s;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Arm the process: `at` counts from 1; 0 only counts. `times` is how often in a row an error is returned. */
void fault_arm(const char *folder, long at, int what, long times, const char *record) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    fault_at = at, fault = what, fault_times = times;
    record_fd = record[0] ? NEXT(open)(record, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    atomic_store(&change_count, 0);
    atomic_store(&read_count, 0);
}

void fault_jump(long seconds) { atomic_store(&clock_jump_s, seconds); }

long fault_counted(void) { return atomic_load(&change_count); }

long fault_reads(void) { return atomic_load(&read_count); }

static int below_root(const char *path) { return root_length && strncmp(path, root, root_length) == 0; }

/* Whether this operation fails with an error; does not return when the process is to be killed here. */
static int faulted(const char *name, const char *path) {
    if (!below_root(path)) return 0;
    long number = atomic_fetch_add(&change_count, 1) + 1;
    if (!fault_at || number < fault_at || fault >= READ_ERROR) return 0;
    int halved = fault == HALF && strstr(name, "write"); /* an operation other than a write has no half: killed before it */
    if ((fault == KILL || fault == HALF) && number == fault_at && !halved) kill(getpid(), SIGKILL);
    if (halved) return number == fault_at ? HALF : 0;
    if (fault >= ERROR && number < fault_at + fault_times) {
        errno = fault - ERROR;
        return 1;
    }
    return 0;
}

/* Whether this read fails with an error. */
static int failed_read(const char *path) {
    if (!below_root(path)) return 0;
    long number = atomic_fetch_add(&read_count, 1) + 1;
    if (fault < READ_ERROR || number < fault_at || number >= fault_at + fault_times) return 0;
    errno = fault - READ_ERROR;
    return 1;
}

/* The path of an open file; 0 when it is none below the root. */
static int path_of(int fd, char path[PATH_MAX]) {
    if (!root_length || fd < 0) return 0;
    char link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return below_root(path);
}

static void record(const char *name, const char *path, const char *other, off64_t offset, const void *data, size_t size) {
    if (record_fd < 0 || !below_root(path)) return;
    dprintf(record_fd, "%s\t%s\t%s\t%ld\t%zu\n", name, path + root_length,
            below_root(other) ? other + root_length : "", (long)offset, size);
    if (data) NEXT(write)(record_fd, data, size);
}

static int faulted_fd(const char *name, int fd) {
    char path[PATH_MAX];
    return path_of(fd, path) ? faulted(name, path) : 0;
}

static void record_fd_write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (record_fd < 0 || !path_of(fd, path)) return;
    struct stat now;
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    record("write", path, "", appends && !fstat(fd, &now) ? now.st_size : lseek64(fd, 0, SEEK_CUR), data, size);
}

static void record_fd_other(const char *name, int fd, off64_t offset) {
    char path[PATH_MAX];
    if (record_fd >= 0 && path_of(fd, path)) record(name, path, "", offset, NULL, 0);
}

/* An opening that makes a file or empties one is an operation too. */
static int faulted_open(const char *path, int flags) {
    if (!below_root(path)) return 0;
    int absent = access(path, F_OK) != 0;
    if ((flags & O_ACCMODE) == O_RDONLY && failed_read(path)) return 1;
    if (!((flags & O_CREAT && absent) || flags & O_TRUNC)) return 0;
    if (faulted("open", path)) return 1;
    record(absent ? "create" : "empty", path, "", 0, NULL, 0);
    return 0;
}

#define OPEN(symbol)                                     \
    int symbol(const char *path, int flags, ...) {       \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        mode_t mode = va_arg(rest, mode_t);              \
        va_end(rest);                                    \
        if (root_length && faulted_open(path, flags)) return -1; \
        return NEXT(symbol)(path, flags, mode);          \
    }
OPEN(open)
OPEN(open64)

int openat(int folder, const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    if (root_length && faulted_open(path, flags)) return -1;
    return NEXT(openat)(folder, path, flags, mode);
}

#define STAT(symbol, facts_type)                        \
    int symbol(const char *path, facts_type *facts) {   \
        if (failed_read(path)) return -1;                   \
        return NEXT(symbol)(path, facts);               \
    }
STAT(stat, struct stat)
STAT(stat64, struct stat64)
STAT(lstat, struct stat)
STAT(lstat64, struct stat64)

#define STAT_AT(symbol, facts_type)                                                \
    int symbol(int folder, const char *path, facts_type *facts, int flags) {       \
        if (failed_read(path)) return -1;                                              \
        return NEXT(symbol)(folder, path, facts, flags);                           \
    }
STAT_AT(fstatat, struct stat)
STAT_AT(fstatat64, struct stat64)

DIR *opendir(const char *path) { return failed_read(path) ? NULL : NEXT(opendir)(path); }

ssize_t read(int fd, void *data, size_t size) {
    char path[PATH_MAX];
    if (path_of(fd, path) && failed_read(path)) return -1;
    return NEXT(read)(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    int hit = faulted_fd("write", fd);
    if (hit == HALF) {
        NEXT(write)(fd, data, size / 2);
        kill(getpid(), SIGKILL);
    }
    if (hit) return -1;
    record_fd_write(fd, data, size);
    return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    int hit = faulted_fd("writev", fd);
    if (hit == HALF) kill(getpid(), SIGKILL);
    for (int i = 0; !hit && i < count; i++) record_fd_write(fd, parts[i].iov_base, parts[i].iov_len);
    return hit ? -1 : NEXT(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    int hit = faulted_fd("pwrite", fd);
    if (hit == HALF) {
        NEXT(pwrite64)(fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return hit ? -1 : NEXT(pwrite64)(fd, data, size, offset);
}

#define SYNC(symbol)                               \
    int symbol(int fd) {                           \
        if (faulted_fd("sync", fd)) return -1;      \
        record_fd_other("sync", fd, 0);            \
        return NEXT(symbol)(fd);                   \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(symbol, offset_type)              \
    int symbol(int fd, offset_type size) {         \
        if (faulted_fd("truncate", fd)) return -1;  \
        record_fd_other("truncate", fd, size);     \
        return NEXT(symbol)(fd, size);             \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int rename(const char *from, const char *to) {
    if (faulted("rename", to)) return -1;
    int answer = NEXT(rename)(from, to);
    if (!answer) record("rename", from, to, 0, NULL, 0);
    return answer;
}

int link(const char *from, const char *to) {
    if (faulted("link", to)) return -1;
    int answer = NEXT(link)(from, to);
    if (!answer) record("link", from, to, 0, NULL, 0);
    return answer;
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (faulted("link", to)) return -1;
    int answer = NEXT(linkat)(a, from, b, to, flags);
    if (!answer) record("link", from, to, 0, NULL, 0);
    return answer;
}

int unlink(const char *path) {
    if (faulted("unlink", path)) return -1;
    int answer = NEXT(unlink)(path);
    if (!answer) record("unlink", path, "", 0, NULL, 0);
    return answer;
}

int mkdir(const char *path, mode_t mode) {
    if (faulted("mkdir", path)) return -1;
    int answer = NEXT(mkdir)(path, mode);
    if (!answer) record("mkdir", path, "", 0, NULL, 0);
    return answer;
}

/* The time of day is shifted; the monotonic clock is not. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    int answer = NEXT(clock_gettime)(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += atomic_load(&clock_jump_s);
    return answer;
}

time_t time(time_t *now) {
    time_t answer = NEXT(time)(NULL) + atomic_load(&clock_jump_s);
    if (now) *now = answer;
    return answer;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int answer = NEXT(gettimeofday)(now, zone);
    now->tv_sec += atomic_load(&clock_jump_s);
    return answer;
}

int flock(int fd, int operation) {
    char link[64], path[PATH_MAX] = "";
    const char *without = getenv("FAULT_NO_LOCKS");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (without && readlink(link, path, PATH_MAX - 1) > 0 && strncmp(path, without, strlen(without)) == 0) {
        errno = ENOSYS;
        return -1;
    }
    return NEXT(flock)(fd, operation);
}
