/* Counts file calls of a process below one folder and, at a chosen call, kills or stops the process.

   Loaded by LD_PRELOAD, so it overrides functions of the C library with the same names. A process arms itself with
   `points_arm`; child processes are not armed. The slot is in memory shared by forked processes, so that a waiting
   process can read the progress of the other.

   A call counts as below the folder if one of its paths, or the path of its descriptor, is. Calls that only read do not
   change what a kill leaves; they are counted nevertheless, because a stop before a read is another interleaving.

   Calls made internally by fclose, exit or a memory mapping are not seen; the project does not write with these. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LOOK = 1, CHANGE = 2, SYNC = 4, LOCK = 8 }; /* classes of calls, a bit mask */
enum { COUNT = 0, KILL = 1, STOP = 2, TEAR = 3 };  /* action at the chosen call */

#define SLOTS 8
#define TRACE_BYTES (1 << 22)

struct slot {
    long count;   /* calls of the chosen classes so far */
    long blocked; /* locks held by another process */
    long hit;     /* 1 once the chosen call was reached */
    long traced;  /* bytes of the trace */
    char trace[TRACE_BYTES]; /* lines `class call path [path]` */
};

static struct slot *slots;
static struct slot *mine;
static char root[PATH_MAX];
static size_t root_length;
static long target;
static int action, classes, keep_trace, order;
static volatile pid_t owner;

__attribute__((constructor)) static void make_slots(void)
{
    slots = mmap(NULL, sizeof(struct slot) * SLOTS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED)
        abort();
}

/* Called from Python */

struct slot *points_slot(int index) { return &slots[index]; }

void points_clear(int index) { memset(&slots[index], 0, offsetof(struct slot, trace)); }

void points_arm(int index, const char *folder, int chosen, long at, int what, int trace, int listing)
{
    mine = &slots[index];
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    classes = chosen, target = at, action = what, keep_trace = trace, order = listing;
    owner = getpid();
}

void points_disarm(void) { owner = 0; }

/* Counted calls */

static int below(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == 0 || path[root_length] == '/');
}

static void path_of(int descriptor, char *found, size_t room)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, found, room - 1);
    found[length > 0 ? length : 0] = 0;
}

static void full_path(int folder, const char *path, char *found, size_t room)
{
    found[0] = 0;
    if (path == NULL)
        return;
    if (path[0] != '/') {
        if (folder != AT_FDCWD)
            path_of(folder, found, room);
        else if (syscall(SYS_getcwd, found, room) < 0)
            found[0] = 0;
        strncat(found, "/", room - strlen(found) - 1);
    }
    strncat(found, path, room - strlen(found) - 1);
}

static void note(int class, const char *call, const char *path, const char *second)
{
    char line[2 * PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%d %s %s %s\n", class, call, path + root_length, second);
    long at = __atomic_fetch_add(&mine->traced, length, __ATOMIC_SEQ_CST);
    if (at + length < TRACE_BYTES)
        memcpy(mine->trace + at, line, (size_t)length);
}

/* Returns 1 if the caller must write only half and then call `end`. */
static int point(int class, const char *call, const char *path, const char *second)
{
    if (!(class & classes))
        return 0;
    if (keep_trace)
        note(class, call, path, second);
    long number = __atomic_fetch_add(&mine->count, 1, __ATOMIC_SEQ_CST);
    if (action == COUNT || number != target)
        return 0;
    mine->hit = 1;
    if (action == TEAR)
        return 1;
    if (action == STOP)
        kill(getpid(), SIGSTOP);
    else
        for (kill(getpid(), SIGKILL);;)
            pause();
    return 0;
}

static void end(void)
{
    for (kill(getpid(), SIGKILL);;)
        pause();
}

static int armed(void) { return owner != 0 && owner == getpid(); }

static int on_path(int class, const char *call, int folder, const char *path)
{
    char found[PATH_MAX];
    if (!armed())
        return 0;
    full_path(folder, path, found, sizeof found);
    return below(found) ? point(class, call, found, "") : 0;
}

static int on_descriptor(int class, const char *call, int descriptor)
{
    char found[PATH_MAX];
    if (!armed() || descriptor < 0)
        return 0;
    path_of(descriptor, found, sizeof found);
    return below(found) ? point(class, call, found, "") : 0;
}

static void on_two(const char *call, int from, const char *old, int to, const char *new)
{
    char first[PATH_MAX], second[PATH_MAX];
    if (!armed())
        return;
    full_path(from, old, first, sizeof first);
    full_path(to, new, second, sizeof second);
    if (below(first))
        point(CHANGE, call, first, below(second) ? second + root_length : second);
    else if (below(second))
        point(CHANGE, call, second, "");
}

/* Overridden calls */

#define NEXT(result, name, ...)                                                                                        \
    static result (*next)(__VA_ARGS__);                                                                                \
    if (next == NULL)                                                                                                  \
        *(void **)&next = dlsym(RTLD_NEXT, #name);

#define WRITES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define CLASS_OF(flags) (WRITES(flags) ? CHANGE : LOOK)

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        NEXT(int, name, const char *, int, ...)                                                                        \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0;                                    \
        va_end(rest);                                                                                                  \
        on_path(CLASS_OF(flags), #name, AT_FDCWD, path);                                                               \
        return next(path, flags, mode);                                                                                \
    }
#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...)                                                             \
    {                                                                                                                  \
        NEXT(int, name, int, const char *, int, ...)                                                                   \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0;                                    \
        va_end(rest);                                                                                                  \
        on_path(CLASS_OF(flags), #name, folder, path);                                                                 \
        return next(folder, path, flags, mode);                                                                        \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define ON_PATH(class, result, name, declared, given, ...)                                                             \
    result name declared                                                                                               \
    {                                                                                                                  \
        NEXT(result, name, __VA_ARGS__)                                                                                \
        on_path(class, #name, AT_FDCWD, path);                                                                         \
        return next given;                                                                                             \
    }
#define ON_PATH_AT(class, result, name, declared, given, ...)                                                          \
    result name declared                                                                                               \
    {                                                                                                                  \
        NEXT(result, name, __VA_ARGS__)                                                                                \
        on_path(class, #name, folder, path);                                                                           \
        return next given;                                                                                             \
    }
#define ON_FD(class, result, name, declared, given, ...)                                                               \
    result name declared                                                                                               \
    {                                                                                                                  \
        NEXT(result, name, __VA_ARGS__)                                                                                \
        on_descriptor(class, #name, fd);                                                                               \
        return next given;                                                                                             \
    }

ON_PATH(CHANGE, int, creat, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
ON_PATH(CHANGE, int, creat64, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
ON_PATH(CHANGE, FILE *, fopen, (const char *path, const char *how), (path, how), const char *, const char *)
ON_PATH(CHANGE, FILE *, fopen64, (const char *path, const char *how), (path, how), const char *, const char *)
ON_PATH(CHANGE, int, unlink, (const char *path), (path), const char *)
ON_PATH(CHANGE, int, remove, (const char *path), (path), const char *)
ON_PATH(CHANGE, int, rmdir, (const char *path), (path), const char *)
ON_PATH(CHANGE, int, mkdir, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
ON_PATH(CHANGE, int, truncate, (const char *path, off_t size), (path, size), const char *, off_t)
ON_PATH(CHANGE, int, truncate64, (const char *path, off64_t size), (path, size), const char *, off64_t)
ON_PATH(CHANGE, int, chmod, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
ON_PATH(LOOK, int, access, (const char *path, int how), (path, how), const char *, int)
ON_PATH(LOOK, int, stat, (const char *path, struct stat *found), (path, found), const char *, struct stat *)
ON_PATH(LOOK, int, stat64, (const char *path, struct stat64 *found), (path, found), const char *, struct stat64 *)
ON_PATH(LOOK, int, lstat, (const char *path, struct stat *found), (path, found), const char *, struct stat *)
ON_PATH(LOOK, int, lstat64, (const char *path, struct stat64 *found), (path, found), const char *, struct stat64 *)

ON_PATH_AT(CHANGE, int, unlinkat, (int folder, const char *path, int how), (folder, path, how), int, const char *, int)
ON_PATH_AT(CHANGE, int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), int, const char *,
           mode_t)
ON_PATH_AT(CHANGE, int, fchmodat, (int folder, const char *path, mode_t mode, int how), (folder, path, mode, how), int,
           const char *, mode_t, int)
ON_PATH_AT(CHANGE, int, utimensat, (int folder, const char *path, const struct timespec times[2], int how),
           (folder, path, times, how), int, const char *, const struct timespec *, int)
ON_PATH_AT(LOOK, int, fstatat, (int folder, const char *path, struct stat *found, int how), (folder, path, found, how),
           int, const char *, struct stat *, int)
ON_PATH_AT(LOOK, int, fstatat64, (int folder, const char *path, struct stat64 *found, int how),
           (folder, path, found, how), int, const char *, struct stat64 *, int)

ON_FD(CHANGE, int, ftruncate, (int fd, off_t size), (fd, size), int, off_t)
ON_FD(CHANGE, int, ftruncate64, (int fd, off64_t size), (fd, size), int, off64_t)
ON_FD(CHANGE, int, posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size), int, off_t, off_t)
ON_FD(CHANGE, int, posix_fallocate64, (int fd, off64_t at, off64_t size), (fd, at, size), int, off64_t, off64_t)
ON_FD(CHANGE, int, fchmod, (int fd, mode_t mode), (fd, mode), int, mode_t)
ON_FD(CHANGE, int, futimens, (int fd, const struct timespec times[2]), (fd, times), int, const struct timespec *)
ON_FD(CHANGE, ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), int,
      const struct iovec *, int)
ON_FD(CHANGE, ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), int,
      const struct iovec *, int, off_t)
ON_FD(CHANGE, ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), int, int, off_t *,
      size_t)
ON_FD(CHANGE, ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), int, int,
      off64_t *, size_t)
ON_FD(LOOK, ssize_t, read, (int fd, void *data, size_t size), (fd, data, size), int, void *, size_t)
ON_FD(LOOK, ssize_t, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), int, void *, size_t,
      off_t)
ON_FD(LOOK, ssize_t, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), int, void *, size_t,
      off64_t)

ON_FD(LOOK, int, close, (int fd), (fd), int)

ssize_t copy_file_range(int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags)
{
    NEXT(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned)
    on_descriptor(CHANGE, "copy_file_range", fd);
    return next(from, at, fd, to, size, flags);
}

/* A kill of the process cannot undo writes, so flushing to the disk is skipped to save time. */
int fsync(int fd)
{
    NEXT(int, fsync, int)
    on_descriptor(SYNC, "fsync", fd);
    return armed() ? 0 : next(fd);
}

int fdatasync(int fd)
{
    NEXT(int, fdatasync, int)
    on_descriptor(SYNC, "fdatasync", fd);
    return armed() ? 0 : next(fd);
}

ssize_t write(int fd, const void *data, size_t size)
{
    NEXT(ssize_t, write, int, const void *, size_t)
    if (on_descriptor(CHANGE, "write", fd)) {
        next(fd, data, size / 2);
        end();
    }
    return next(fd, data, size);
}

#define PWRITE(name, offset)                                                                                           \
    ssize_t name(int fd, const void *data, size_t size, offset at)                                                     \
    {                                                                                                                  \
        NEXT(ssize_t, name, int, const void *, size_t, offset)                                                         \
        if (on_descriptor(CHANGE, #name, fd)) {                                                                        \
            next(fd, data, size / 2, at);                                                                              \
            end();                                                                                                     \
        }                                                                                                              \
        return next(fd, data, size, at);                                                                               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

int rename(const char *old, const char *new)
{
    NEXT(int, rename, const char *, const char *)
    on_two("rename", AT_FDCWD, old, AT_FDCWD, new);
    return next(old, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
    NEXT(int, renameat, int, const char *, int, const char *)
    on_two("renameat", from, old, to, new);
    return next(from, old, to, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned how)
{
    NEXT(int, renameat2, int, const char *, int, const char *, unsigned)
    on_two("renameat2", from, old, to, new);
    return next(from, old, to, new, how);
}

int link(const char *old, const char *new)
{
    NEXT(int, link, const char *, const char *)
    on_two("link", AT_FDCWD, old, AT_FDCWD, new);
    return next(old, new);
}

int linkat(int from, const char *old, int to, const char *new, int how)
{
    NEXT(int, linkat, int, const char *, int, const char *, int)
    on_two("linkat", from, old, to, new);
    return next(from, old, to, new, how);
}

int symlink(const char *to, const char *path)
{
    NEXT(int, symlink, const char *, const char *)
    on_path(CHANGE, "symlink", AT_FDCWD, path);
    return next(to, path);
}

int symlinkat(const char *to, int folder, const char *path)
{
    NEXT(int, symlinkat, const char *, int, const char *)
    on_path(CHANGE, "symlinkat", folder, path);
    return next(to, folder, path);
}

/* Listings: a file system returns names in any order, which determines the order of deletions. Here names are sorted,
   optionally in reverse, so that points are equal on every machine and both orders can be tested. */

#define LISTINGS 64

static struct listing {
    DIR *folder;
    struct dirent64 *entries;
    long count, next;
} listings[LISTINGS];

static int by_name(const void *left, const void *right)
{
    const struct dirent64 *first = left, *second = right;
    return order * strcmp(first->d_name, second->d_name);
}

static void read_listing(struct listing *listing, DIR *folder, struct dirent64 *(*next)(DIR *))
{
    struct dirent64 *entry;
    listing->folder = folder, listing->entries = NULL, listing->count = listing->next = 0;
    while ((entry = next(folder)) != NULL) {
        listing->entries = realloc(listing->entries, (size_t)(listing->count + 1) * sizeof *entry);
        memcpy(&listing->entries[listing->count++], entry, entry->d_reclen);
    }
    qsort(listing->entries, (size_t)listing->count, sizeof *entry, by_name);
}

static struct listing *listing_of(DIR *folder)
{
    for (int i = 0; i < LISTINGS; i++)
        if (listings[i].folder == folder)
            return &listings[i];
    return NULL;
}

struct dirent64 *readdir64(DIR *folder)
{
    NEXT(struct dirent64 *, readdir64, DIR *)
    if (!armed() || order == 0)
        return next(folder);
    struct listing *found = listing_of(folder);
    if (found == NULL && (found = listing_of(NULL)) != NULL)
        read_listing(found, folder, next);
    if (found == NULL)
        return next(folder);
    return found->next < found->count ? &found->entries[found->next++] : NULL;
}

int closedir(DIR *folder)
{
    NEXT(int, closedir, DIR *)
    struct listing *found = listing_of(folder);
    if (found != NULL) {
        free(found->entries);
        found->folder = NULL;
    }
    return next(folder);
}

DIR *opendir(const char *path)
{
    NEXT(DIR *, opendir, const char *)
    on_path(LOOK, "opendir", AT_FDCWD, path);
    return next(path);
}

DIR *fdopendir(int descriptor)
{
    NEXT(DIR *, fdopendir, int)
    on_descriptor(LOOK, "fdopendir", descriptor);
    return next(descriptor);
}

#define FCNTL(name)                                                                                                    \
    int name(int fd, int command, ...)                                                                                 \
    {                                                                                                                  \
        NEXT(int, name, int, int, ...)                                                                                 \
        va_list rest;                                                                                                  \
        va_start(rest, command);                                                                                       \
        void *given = va_arg(rest, void *);                                                                            \
        va_end(rest);                                                                                                  \
        if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW)            \
            on_descriptor(LOCK, #name, fd);                                                                            \
        return next(fd, command, given);                                                                               \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* A waiting process must be able to see that this process waits for a lock. */
int flock(int fd, int how)
{
    NEXT(int, flock, int, int)
    on_descriptor(LOCK, "flock", fd);
    int result = next(fd, how | LOCK_NB);
    if (result == 0 || errno != EWOULDBLOCK)
        return result;
    if (armed())
        __atomic_fetch_add(&mine->blocked, 1, __ATOMIC_SEQ_CST);
    errno = EWOULDBLOCK;
    return (how & LOCK_NB) ? result : next(fd, how);
}
