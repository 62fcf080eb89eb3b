/* A library to preload: the process's wall clock is off by what a file says, and its monotonic clock is right.
 *
 * The file, named by SOAK_CLOCK, holds nanoseconds as a 64-bit integer; a change of it takes effect at once. libfaketime
 * does the same, but where it leaves the monotonic clock alone, Debian 12's makes Python's time.sleep() fail (EINVAL).
 * Whoever waits until a moment of the wall clock must wait as long as with a right one, so such moments are turned back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define WALL_CLOCK_SINCE 1000000000 /* Seconds; the monotonic clock never gets there. */

static const volatile int64_t *offset;

__attribute__((constructor)) static void open_clock(void) {
  const char *path = getenv("SOAK_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *at = file >= 0 ? mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  if (file >= 0) close(file);
  if (at != MAP_FAILED) offset = at;
}

static struct timespec shifted(struct timespec moment, int sign) {
  int64_t nanoseconds = moment.tv_nsec + sign * (offset ? *offset : 0) % SECOND;
  moment.tv_sec += sign * (offset ? *offset : 0) / SECOND;
  if (nanoseconds < 0) nanoseconds += SECOND, moment.tv_sec--;
  if (nanoseconds >= SECOND) nanoseconds -= SECOND, moment.tv_sec++;
  moment.tv_nsec = nanoseconds;
  return moment;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int status = real(clock, now);
  if (!status && clock == CLOCK_REALTIME) *now = shifted(*now, 1);
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec moment;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &moment);
  now->tv_sec = moment.tv_sec;
  now->tv_usec = moment.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec moment;
  clock_gettime(CLOCK_REALTIME, &moment);
  if (now) *now = moment.tv_sec;
  return moment.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!real) {
    void *found = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2"); /* x86-64 has an older one, too. */
    if (!found) found = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))found;
  }
  struct timespec moment = until->tv_sec > WALL_CLOCK_SINCE ? shifted(*until, -1) : *until;
  return real(condition, mutex, &moment);
}

/* gRPC's locks wait by this. */
long syscall(long number, ...) {
  static long (*real)(long, ...);
  long arguments[6];
  va_list list;
  va_start(list, number);
  for (int index = 0; index < 6; index++) arguments[index] = va_arg(list, long);
  va_end(list);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  struct timespec moment;
  if (number == SYS_futex && (arguments[1] & FUTEX_CLOCK_REALTIME) && arguments[3]) {
    moment = shifted(*(const struct timespec *)arguments[3], -1);
    arguments[3] = (long)&moment;
  }
  return real(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}
