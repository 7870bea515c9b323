/** Bits of `enum event_flag` (bpf/event.h) that are asked for; names of all: EVENT_FLAGS. */

/** the packet is a tunnel packet */
export const EVENT_TUNNEL = 32;
/** of a kind of which only some are recorded */
export const EVENT_THINNED = 64;
/** device.receive, told in PREROUTING: programs at tracepoints were not run meanwhile */
export const EVENT_SKIPPED = 128;
