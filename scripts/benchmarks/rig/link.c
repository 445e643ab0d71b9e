/* A link between two network namespaces, emulated in user space over two TUN devices.
 *
 *   link NETNS_A NETNS_B RATE DELAY QUEUE LOSS SEED
 *
 * NETNS_*: paths of network namespaces; each gets a device `link`. RATE: bit/s, of Ethernet frames with
 * preamble and gap, so a full TCP segment costs 1538 bytes. DELAY: one way, microseconds. QUEUE: bytes
 * that wait for the wire; what comes then is dropped (tail drop). LOSS: packets of a million, each way,
 * drawn from SEED. Both directions are alike and independent.
 *
 * Says "ready" once both devices are there. On SIGTERM it says one line of JSON and ends.
 *
 * It sleeps instead of spinning: under load it looks every QUANTUM, as a network card that coalesces
 * interrupts does, and takes all that came meanwhile. The wire's own clock (`free_at`) is exact, so the
 * rate does not depend on when we wake; a packet arrives at most a QUANTUM late.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    QUANTUM = 200000,  /* ns */
    MTU = 1500,        /* what the devices are set to */
    FRAMING = 38,      /* bytes: Ethernet header and checksum, preamble, gap */
    SMALLEST = 84,     /* bytes on the wire of the shortest frame */
    AT_ONCE = 512,     /* packets of one direction before the other has its turn */
};

/* A packet in the ring, followed by its bytes, padded to 8. length 0: the rest of the ring is unused. */
typedef struct {
    uint64_t due;
    uint64_t length;
} record;

typedef struct {
    int in, out;
    unsigned char *ring;
    size_t size, head, tail;  /* head == tail: empty */
    uint64_t free_at;         /* when the wire has sent all that it took */
    uint64_t random;
    uint64_t packets, bytes, lost, dropped, refused, late; /* late: the most, ns */
} direction;

static double ns_a_byte;
static uint64_t delay, queue; /* ns; the queue as the time that the wire needs for it */
static uint64_t loss;         /* of 2^64 */
static volatile sig_atomic_t stopping;

static void stop(int signum) {
    (void)signum;
    stopping = 1;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64*. Source: Vigna, «An experimental exploration of Marsaglia's xorshift generators, scrambled». */
static int is_lost(direction *d) {
    d->random ^= d->random >> 12;
    d->random ^= d->random << 25;
    d->random ^= d->random >> 27;
    return d->random * 2685821657736338717u < loss;
}

static int open_device(const char *netns) {
    int ns = open(netns, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) fail(netns);
    close(ns);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0) fail("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    strcpy(request.ifr_name, "link");
    if (ioctl(device, TUNSETIFF, &request)) fail("TUNSETIFF");
    return device;
}

/* Room for one more packet at the tail, or NULL; wraps where the end of the ring is too near. */
static record *room(direction *d) {
    size_t need = sizeof(record) + MTU + 8;
    if (d->tail >= d->head && d->size - d->tail < need) {
        if (d->head == 0) return NULL;
        ((record *)(d->ring + d->tail))->length = 0;
        d->tail = 0;
    }
    if (d->tail < d->head && d->head - d->tail <= need) return NULL;
    return (record *)(d->ring + d->tail);
}

/* Take what the sending host has: it is lost, dropped, or gets the time at which it arrives. */
static int take(direction *d, uint64_t now) {
    static unsigned char bin[MTU + 8];
    for (int taken = 0; taken < AT_ONCE; taken++) {
        record *place = room(d);
        ssize_t length = read(d->in, place ? (unsigned char *)(place + 1) : bin, MTU);
        if (length <= 0) return taken;
        d->packets++;
        d->bytes += (uint64_t)length;
        uint64_t starts = d->free_at > now ? d->free_at : now;
        if (!place || starts - now > queue) {
            d->dropped++;
            continue;
        }
        ssize_t frame = length + FRAMING < SMALLEST ? SMALLEST : length + FRAMING;
        d->free_at = starts + (uint64_t)((double)frame * ns_a_byte);
        if (is_lost(d)) { /* after the wire: it took its time all the same */
            d->lost++;
            continue;
        }
        place->due = d->free_at + delay;
        place->length = (uint64_t)length;
        d->tail += sizeof(record) + (((size_t)length + 7) & ~(size_t)7);
    }
    return AT_ONCE;
}

/* Deliver what is due. Returns when the next one is, or UINT64_MAX. */
static uint64_t give(direction *d, uint64_t now) {
    while (d->head != d->tail) {
        record *packet = (record *)(d->ring + d->head);
        if (packet->length == 0) {
            d->head = 0;
            continue;
        }
        if (packet->due > now) return packet->due;
        if (now - packet->due > d->late) d->late = now - packet->due;
        if (write(d->out, packet + 1, packet->length) < 0) d->refused++;
        d->head += sizeof(record) + ((packet->length + 7) & ~(size_t)7);
    }
    return UINT64_MAX;
}

static void tell(const char *name, const direction *d) {
    printf("\"%s\": {\"packets\": %llu, \"bytes\": %llu, \"lost\": %llu, \"dropped\": %llu, \"refused\": %llu, "
           "\"late_us\": %llu}, ", name, (unsigned long long)d->packets, (unsigned long long)d->bytes,
           (unsigned long long)d->lost, (unsigned long long)d->dropped, (unsigned long long)d->refused,
           (unsigned long long)(d->late / 1000));
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: link NETNS_A NETNS_B RATE DELAY QUEUE LOSS SEED\n");
        return 2;
    }
    ns_a_byte = 8e9 / atof(argv[3]);
    delay = strtoull(argv[4], NULL, 10) * 1000;
    double queue_bytes = atof(argv[5]);
    queue = (uint64_t)(queue_bytes * ns_a_byte);
    loss = (uint64_t)(atof(argv[6]) / 1e6 * 18446744073709551615.0);
    uint64_t seed = strtoull(argv[7], NULL, 10);

    int a = open_device(argv[1]), b = open_device(argv[2]);
    direction ways[2] = {{.in = a, .out = b}, {.in = b, .out = a}};
    /* What is on its way, and a quantum more; a record is never longer than its frame by more than a packet. */
    double longest = queue_bytes + ((double)delay + 4 * QUANTUM) / ns_a_byte;
    for (int i = 0; i < 2; i++) {
        ways[i].size = ((size_t)(longest * 1.1) + 64 * (MTU + 64)) & ~(size_t)7;
        ways[i].ring = malloc(ways[i].size + sizeof(record));
        if (!ways[i].ring) fail("malloc");
        ways[i].random = (seed + 1) * 0x9E3779B97F4A7C15u + (uint64_t)i * 0xD1B54A32D192ED03u;
    }

    prctl(PR_SET_TIMERSLACK, 1000);
    setpriority(PRIO_PROCESS, 0, -10); /* a wire does not wait for the programs at its ends */
    sigset_t term, open_mask;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigaddset(&term, SIGINT);
    sigprocmask(SIG_BLOCK, &term, &open_mask);
    sigdelset(&open_mask, SIGTERM);
    sigdelset(&open_mask, SIGINT);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    puts("ready");
    fflush(stdout);

    struct pollfd devices[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};
    while (!stopping) {
        uint64_t now = now_ns(), next = UINT64_MAX;
        int taken = 0, more = 0;
        for (int i = 0; i < 2; i++) {
            int came = take(&ways[i], now);
            taken += came;
            more |= came == AT_ONCE;
            uint64_t due = give(&ways[i], now);
            if (due < next) next = due;
        }
        if (more) continue;
        /* Under load: no poll that every packet would end, but the next look after a quantum. */
        uint64_t wait = next == UINT64_MAX ? UINT64_MAX : next > now ? next - now : 0;
        if (wait < QUANTUM || taken) wait = QUANTUM;
        struct timespec left = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
        ppoll(devices, taken ? 0 : 2, wait == UINT64_MAX ? NULL : &left, &open_mask);
    }

    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{");
    tell("a_to_b", &ways[0]);
    tell("b_to_a", &ways[1]);
    printf("\"cpu_seconds\": %.3f}\n",
           (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
