/* A link between two network namespaces, emulated in user space over two TUN devices.
 *
 *   link NETNS_A NETNS_B RATE DELAY QUEUE LOSS REORDER DUPLICATE SEED
 *
 * NETNS_*: paths of network namespaces; each gets a device `link`. RATE: bit/s, of Ethernet frames with
 * preamble and gap, so a full TCP segment costs 1538 bytes. DELAY: one way, microseconds. QUEUE: bytes
 * that wait for the wire; what comes then is dropped (tail drop). LOSS: packets of a million, each way,
 * drawn from SEED; likewise REORDER, which arrive up to half a DELAY and 2 ms late, past those behind them, and
 * DUPLICATE, which arrive a second time so late. Both directions are alike and independent.
 *
 * Says "ready" once both devices are there. On SIGTERM, and when whoever started it is gone, it says one line of
 * JSON and ends.
 *
 * Without loss, TCP and UDP (UDP_SEGMENT) hand over bundles, as they do to a network card that cuts them itself
 * (TSO, USO) and as a card hands over what came in one go (GRO): a bundle takes its segments' time on the wire,
 * arrives whole with its last one, and loses those segments that the queue has no room for. Passing every
 * segment by itself cost half a core, which the programs at both ends then lacked. With loss, reordering or
 * duplicates each is by itself.
 *
 * It sleeps instead of spinning: under load it looks every QUANTUM, as a network card that coalesces
 * interrupts does, and takes all that came meanwhile. The wire's own clock (`free_at`) is exact, so the
 * rate does not depend on when we wake; a packet arrives at most a QUANTUM late.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
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
    FRAMING = 38,      /* bytes: Ethernet header and checksum, preamble, gap */
    SMALLEST = 84,     /* bytes on the wire of the shortest frame */
    AT_ONCE = 512,     /* packets of one direction before the other has its turn */
    HELD = 512,        /* packets of one direction that are held back at once; what is more goes on in order */
    LATEST = 2000000,  /* ns, and half the delay: how long at most */
    LARGEST = 65536 + sizeof(struct virtio_net_hdr), /* bytes that one read gives: a bundle, with its description */
};

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20 /* Linux 6.2 */
#define TUN_F_USO6 0x40
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* A packet or a bundle in the ring, followed by its bytes (a virtio_net_hdr first), padded to 8.
 * length 0: the rest of the ring is unused. */
typedef struct {
    uint64_t due;
    uint64_t length;
} record;

/* What a read gave. segments: 1 for a packet. header: bytes of IP and TCP or UDP headers that each segment has;
 * size: bytes of payload in each but the last. */
typedef struct {
    struct virtio_net_hdr *how;
    unsigned char *ip;
    size_t length, header, size, segments;
} bundle;

/* A packet that is held back; `bytes` are its own, a virtio_net_hdr first. */
typedef struct {
    uint64_t due;
    size_t length;
    unsigned char *bytes;
} stray;

typedef struct {
    int in, out;
    unsigned char *ring;
    size_t size, head, tail;  /* head == tail: empty */
    uint64_t free_at;         /* when the wire has sent all that it took */
    uint64_t random;
    stray held[HELD];
    size_t holds;
    uint64_t packets, bytes, lost, reordered, duplicated, dropped, refused, late; /* late: the most, ns */
} direction;

static double ns_a_byte;
static uint64_t delay, queue; /* ns; the queue as the time that the wire needs for it */
static uint64_t loss, reorder, duplicate; /* of 2^64 */
static int apart;             /* each packet by itself */
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
static uint64_t draw(direction *d) {
    d->random ^= d->random >> 12;
    d->random ^= d->random << 25;
    d->random ^= d->random >> 27;
    return d->random * 2685821657736338717u;
}

/* Keep a copy of a packet that is due at `due` or some time after it. Whether there was room. */
static int hold(direction *d, const unsigned char *bytes, size_t length, uint64_t due) {
    if (d->holds == HELD) return 0;
    stray *s = &d->held[d->holds];
    s->bytes = malloc(length);
    if (!s->bytes) return 0;
    memcpy(s->bytes, bytes, length);
    s->length = length;
    s->due = due + draw(d) % (delay / 2 + LATEST);
    d->holds++;
    return 1;
}

static int open_device(const char *netns) {
    int ns = open(netns, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) fail(netns);
    close(ns);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0) fail("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    strcpy(request.ifr_name, "link");
    if (ioctl(device, TUNSETIFF, &request)) fail("TUNSETIFF");
    unsigned bundles = apart ? 0 : TUN_F_CSUM | TUN_F_TSO4;
    if (ioctl(device, TUNSETOFFLOAD, apart ? 0 : bundles | TUN_F_USO4 | TUN_F_USO6) && ioctl(device, TUNSETOFFLOAD, bundles))
        fail("TUNSETOFFLOAD");
    return device;
}

static bundle look(unsigned char *bytes, size_t length) {
    bundle b = {.how = (struct virtio_net_hdr *)bytes, .ip = bytes + sizeof(struct virtio_net_hdr), .segments = 1};
    b.length = length - sizeof(struct virtio_net_hdr);
    int tcp = (b.how->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4;
    if (tcp || b.how->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4) {
        size_t at = (size_t)(b.ip[0] & 15) * 4;
        b.header = at + (tcp ? (size_t)(b.ip[at + 12] >> 4) * 4 : 8);
        b.size = b.how->gso_size;
        b.segments = (b.length - b.header + b.size - 1) / b.size;
    }
    return b;
}

static double on_the_wire(const bundle *b) {
    if (b->segments > 1) return (double)(b->length + (b->segments - 1) * b->header + b->segments * FRAMING);
    return b->length + FRAMING < SMALLEST ? SMALLEST : (double)(b->length + FRAMING);
}

/* The one's complement sum of 16-bit words. Source: RFC 1071. */
static uint16_t sum(const unsigned char *bytes, size_t length, uint32_t start) {
    for (size_t i = 0; i + 1 < length; i += 2) start += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
    while (start >> 16) start = (start & 0xFFFF) + (start >> 16);
    return (uint16_t)start;
}

static void put(unsigned char *at, uint16_t value) {
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

/* Keep the first `segments` of them; FIN and PSH belong to the last. The lengths and checksums must say so: of TCP's and
 * UDP's checksum the kernel has left us the sum over the pseudo header, to which whoever cuts the bundle adds the rest. */
static void shorten(bundle *b, size_t segments) {
    b->segments = segments;
    b->length = b->header + segments * b->size;
    put(b->ip + 2, (uint16_t)b->length);
    size_t at = (size_t)(b->ip[0] & 15) * 4;
    put(b->ip + 10, 0);
    put(b->ip + 10, (uint16_t)~sum(b->ip, at, 0));
    int protocol = b->ip[9];
    uint16_t pseudo = sum(b->ip + 12, 8, (uint32_t)protocol + (uint32_t)(b->length - at));
    if (protocol == IPPROTO_TCP) {
        b->ip[at + 13] &= (unsigned char)~0x09;
        put(b->ip + at + 16, pseudo);
    } else {
        put(b->ip + at + 4, (uint16_t)(b->length - at));
        put(b->ip + at + 6, pseudo);
    }
    if (segments == 1) b->how->gso_type = VIRTIO_NET_HDR_GSO_NONE;
}

/* Room for one more packet at the tail, or NULL; wraps where the end of the ring is too near. */
static record *room(direction *d) {
    size_t need = sizeof(record) + LARGEST + 8;
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
    static unsigned char bin[LARGEST] __attribute__((aligned(8)));
    for (int taken = 0; taken < AT_ONCE; taken++) {
        record *place = room(d);
        unsigned char *into = place ? (unsigned char *)(place + 1) : bin;
        ssize_t came = read(d->in, into, LARGEST);
        if (came <= 0) return taken;
        bundle b = look(into, (size_t)came);
        d->packets += b.segments;
        d->bytes += b.length;
        uint64_t starts = d->free_at > now ? d->free_at : now;
        if (!place || starts - now > queue) {
            d->dropped += b.segments;
            continue;
        }
        if (b.segments > 1) {
            double left = (double)(queue - (starts - now)) / ns_a_byte;
            size_t fitting = 1 + (size_t)(left / (double)(b.header + b.size + FRAMING));
            if (fitting < b.segments) {
                d->dropped += b.segments - fitting;
                shorten(&b, fitting);
            }
        }
        d->free_at = starts + (uint64_t)(on_the_wire(&b) * ns_a_byte);
        if (draw(d) < loss) { /* after the wire: it took its time all the same */
            d->lost++;
            continue;
        }
        place->due = d->free_at + delay;
        place->length = b.length + sizeof(struct virtio_net_hdr);
        if (duplicate && draw(d) < duplicate) d->duplicated += (uint64_t)hold(d, into, place->length, place->due);
        if (reorder && draw(d) < reorder && hold(d, into, place->length, place->due)) {
            d->reordered++;
            continue;
        }
        d->tail += sizeof(record) + ((place->length + 7) & ~(uint64_t)7);
    }
    return AT_ONCE;
}

/* Deliver what was held back and is due. Returns when the next one is, or UINT64_MAX. */
static uint64_t give_held(direction *d, uint64_t now) {
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < d->holds;) {
        stray *s = &d->held[i];
        if (s->due > now) {
            if (s->due < next) next = s->due;
            i++;
            continue;
        }
        if (write(d->out, s->bytes, s->length) < 0) d->refused++;
        free(s->bytes);
        *s = d->held[--d->holds];
    }
    return next;
}

/* Deliver what is due in order. Returns when the next one is, or UINT64_MAX. */
static uint64_t give_in_order(direction *d, uint64_t now) {
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

/* Deliver all that is due, what was held back after what it was to let pass. */
static uint64_t give(direction *d, uint64_t now) {
    uint64_t next = give_in_order(d, now);
    if (d->holds) {
        uint64_t held = give_held(d, now);
        if (held < next) next = held;
    }
    return next;
}

static void tell(const char *name, const direction *d) {
    printf("\"%s\": {\"packets\": %llu, \"bytes\": %llu, \"lost\": %llu, \"reordered\": %llu, \"duplicated\": %llu, "
           "\"dropped\": %llu, \"refused\": %llu, \"late_us\": %llu}, ",
           name, (unsigned long long)d->packets, (unsigned long long)d->bytes, (unsigned long long)d->lost,
           (unsigned long long)d->reordered, (unsigned long long)d->duplicated, (unsigned long long)d->dropped,
           (unsigned long long)d->refused, (unsigned long long)(d->late / 1000));
}

static uint64_t share(const char *of_a_million) {
    return (uint64_t)(atof(of_a_million) / 1e6 * 18446744073709551615.0);
}

int main(int argc, char **argv) {
    if (argc != 10) {
        fprintf(stderr, "usage: link NETNS_A NETNS_B RATE DELAY QUEUE LOSS REORDER DUPLICATE SEED\n");
        return 2;
    }
    ns_a_byte = 8e9 / atof(argv[3]);
    delay = strtoull(argv[4], NULL, 10) * 1000;
    double queue_bytes = atof(argv[5]);
    queue = (uint64_t)(queue_bytes * ns_a_byte);
    loss = share(argv[6]);
    reorder = share(argv[7]);
    duplicate = share(argv[8]);
    apart = loss || reorder || duplicate;
    uint64_t seed = strtoull(argv[9], NULL, 10);
    prctl(PR_SET_PDEATHSIG, SIGTERM);

    int a = open_device(argv[1]), b = open_device(argv[2]);
    direction ways[2] = {{.in = a, .out = b}, {.in = b, .out = a}};
    /* What is on its way, and a quantum more; a record is never longer than its frame by more than a packet. */
    double longest = queue_bytes + ((double)delay + 4 * QUANTUM) / ns_a_byte;
    for (int i = 0; i < 2; i++) {
        ways[i].size = ((size_t)(longest * 1.1) + 4 * (LARGEST + 64)) & ~(size_t)7;
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
