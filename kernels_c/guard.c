/* guard.c: memory mapped from a file, when the file goes away under a step.
 *
 * A mapped page that is no longer in its file (truncated by another process), or that its disk fails
 * to give, raises SIGBUS in the thread that touches it. The handler puts zeros in the place of the whole
 * mapping and notes that it is lost: the step runs to its end in every thread of the pool, so that no lock
 * and no phase is left half open, and the caller throws its result away. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "engine_abi.h"

#define GUARDS 256

enum { GUARD_FREE, GUARD_CLAIMED, GUARD_WATCHED, GUARD_LOST };

static struct {
    _Atomic int32_t state;
    uintptr_t begin; /* written while claimed, read while watched or lost */
    uint64_t bytes;
} guards[GUARDS];

/* Who is asked about faults that are not ours. Written before the handler is in place. */
static struct sigaction guard_before;

/* Only what POSIX allows in a handler, and mmap, which on Linux is nothing but a system call. */
static void guard_on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    const int saved = errno;
    const uintptr_t at = (uintptr_t)info->si_addr;
    for (int32_t i = 0; i < GUARDS && info->si_code > 0; i++) {
        const int32_t state = atomic_load_explicit(&guards[i].state, memory_order_acquire);
        if (state < GUARD_WATCHED || at < guards[i].begin || at - guards[i].begin >= guards[i].bytes)
            continue;
        /* Two threads may come here at once: zeros are then mapped over zeros. */
        if (mmap((void *)guards[i].begin, guards[i].bytes, PROT_READ,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            break;
        atomic_store_explicit(&guards[i].state, GUARD_LOST, memory_order_release);
        errno = saved;
        return;
    }
    /* Not ours: as if we had never been here. A fault comes again by itself, a sent signal does not. */
    sigaction(SIGBUS, &guard_before, NULL);
    if (info->si_code <= 0)
        raise(number);
    errno = saved;
}

int32_t engine_guard(const void *memory, uint64_t bytes)
{
    struct sigaction now;
    if (memory == NULL || bytes == 0 || sigaction(SIGBUS, NULL, &now) != 0)
        return -1;
    for (int32_t i = 0; i < GUARDS; i++) {
        int32_t free = GUARD_FREE;
        if (!atomic_compare_exchange_strong(&guards[i].state, &free, GUARD_CLAIMED))
            continue;
        guards[i].begin = (uintptr_t)memory;
        guards[i].bytes = bytes;
        atomic_store_explicit(&guards[i].state, GUARD_WATCHED, memory_order_release);
        if (now.sa_sigaction != guard_on_sigbus) {
            guard_before = now;
            struct sigaction ours = {.sa_sigaction = guard_on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
            sigemptyset(&ours.sa_mask);
            sigaction(SIGBUS, &ours, NULL);
        }
        return i;
    }
    return -1;
}

int32_t engine_guard_lost(int32_t place)
{
    return place >= 0 && place < GUARDS && atomic_load(&guards[place].state) == GUARD_LOST;
}

void engine_unguard(int32_t place)
{
    if (place >= 0 && place < GUARDS)
        atomic_store(&guards[place].state, GUARD_FREE);
}
