/* Counts the operations by which a process changes files below one folder, and at one of them does harm.
 *
 * Preloaded before the C library. Nothing happens until fault_arm() is called; from then on every write, truncation,
 * flush to disk, rename, link, removal and new folder below the root is counted, in the order it happens, and the one
 * with the given number is struck: the process is killed before it, or halfway through a write, or the system's answer
 * is an error, from there on as often as asked. Recorded operations go to a log as `number name path` lines.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING = 0, KILL = 1, HALF = 2 }; /* any other value above 2 is an errno: 1000 + errno */

static char root[PATH_MAX];
static size_t root_length;
static long strike_at, strikes;
static int harm, log_fd = -1;
static atomic_long counted;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Arm the process: `at` counts from 1; 0 only counts. `times` is how often in a row an error is answered. */
void fault_arm(const char *folder, long at, int what, long times, const char *log_path) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    strike_at = at, harm = what, strikes = times;
    log_fd = log_path[0] ? open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    atomic_store(&counted, 0);
}

long fault_counted(void) { return atomic_load(&counted); }

static int below_root(const char *path) { return root_length && strncmp(path, root, root_length) == 0; }

/* Whether to answer this operation with an error; does not return when the process is to die here. */
static int struck(const char *name, const char *path) {
    if (!below_root(path)) return 0;
    long number = atomic_fetch_add(&counted, 1) + 1;
    if (log_fd >= 0) dprintf(log_fd, "%ld %s %s\n", number, name, path + root_length);
    if (!strike_at || number < strike_at) return 0;
    int halved = harm == HALF && strstr(name, "write"); /* what is no write has no half: the process dies before it */
    if ((harm == KILL || harm == HALF) && number == strike_at && !halved) kill(getpid(), SIGKILL);
    if (halved) return number == strike_at ? HALF : 0;
    if (harm >= 1000 && number < strike_at + strikes) {
        errno = harm - 1000;
        return 1;
    }
    return 0;
}

static int struck_fd(const char *name, int fd) {
    if (!root_length || fd < 0) return 0;
    char link[64], path[PATH_MAX];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return struck(name, path);
}

static int struck_at(const char *name, int folder, const char *path) {
    if (!root_length) return 0;
    if (path[0] == '/' || folder == AT_FDCWD) return struck(name, path);
    return struck_fd(name, folder);
}

ssize_t write(int fd, const void *data, size_t size) {
    int hit = struck_fd("write", fd);
    if (hit == HALF) {
        NEXT(write)(fd, data, size / 2);
        kill(getpid(), SIGKILL);
    }
    return hit ? -1 : NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    int hit = struck_fd("writev", fd);
    if (hit == HALF) kill(getpid(), SIGKILL);
    return hit ? -1 : NEXT(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    int hit = struck_fd("pwrite", fd);
    if (hit == HALF) {
        NEXT(pwrite64)(fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return hit ? -1 : NEXT(pwrite64)(fd, data, size, offset);
}

int fsync(int fd) { return struck_fd("fsync", fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return struck_fd("fdatasync", fd) ? -1 : NEXT(fdatasync)(fd); }
int ftruncate64(int fd, off64_t size) { return struck_fd("ftruncate", fd) ? -1 : NEXT(ftruncate64)(fd, size); }
int ftruncate(int fd, off_t size) { return struck_fd("ftruncate", fd) ? -1 : NEXT(ftruncate)(fd, size); }

int rename(const char *from, const char *to) { return struck("rename", to) ? -1 : NEXT(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) {
    return struck_at("rename", b, to) ? -1 : NEXT(renameat)(a, from, b, to);
}
int link(const char *from, const char *to) { return struck("link", to) ? -1 : NEXT(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    return struck_at("link", b, to) ? -1 : NEXT(linkat)(a, from, b, to, flags);
}
int unlink(const char *path) { return struck("unlink", path) ? -1 : NEXT(unlink)(path); }
int unlinkat(int folder, const char *path, int flags) {
    return struck_at("unlink", folder, path) ? -1 : NEXT(unlinkat)(folder, path, flags);
}
int mkdir(const char *path, mode_t mode) { return struck("mkdir", path) ? -1 : NEXT(mkdir)(path, mode); }
