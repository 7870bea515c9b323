import type { Namespaces } from './namespaces.js';

/** A namespace with one way out, and the router at its other end. */
export interface Uplink {
  role: string;
  /** the namespace's IPv4 address */
  address: string;
  router: string;
  /** the router's device to it */
  device: string;
}

/**
 * From now on nothing leaves a namespace: it does not know its router's hardware address any more, and
 * the router keeps that for itself. What it wants to send waits (neigh_resolve_output), and leaves when
 * the function that this resolves with is called. Its device is `eth0`.
 */
export async function forgetRouter(
  namespaces: Namespaces,
  { role, address, router, device }: Uplink,
  signal?: AbortSignal,
): Promise<() => Promise<void>> {
  const silence = `/proc/sys/net/ipv4/conf/${device}/arp_ignore`;
  // the way there is not to wait
  const mac = (await namespaces.script(role, 'cat /sys/class/net/eth0/address', signal)).trim();
  await namespaces.script(
    router,
    `ip neigh replace ${address} lladdr ${mac} dev ${device}\necho 8 > ${silence}`,
    signal,
  );
  await namespaces.script(
    role,
    `ip neigh flush dev eth0
echo 10 > /proc/sys/net/ipv4/neigh/eth0/retrans_time_ms
echo 10000 > /proc/sys/net/ipv4/neigh/eth0/mcast_solicit`,
    signal,
  );
  return async () => {
    await namespaces.script(router, `echo 0 > ${silence}`);
  };
}
