/**
 * A lab's TCP client that connects at moments told to the microsecond (see volley.ts), started inside
 * a namespace: `node connect-client.js`. What stands is reset at once, so that no TIME_WAIT keeps its port.
 */
import { Socket } from 'node:net';
import {
  atTheirMoments,
  fireVolleys,
  monotonic,
  type Aimed,
  type Measurement,
  type Volley,
} from './volley.js';

/** TCP_TIMEOUT_INIT: a SYN is not sent again before, ms */
const INITIAL_RTO_MS = 1000;

interface Ready {
  measured: Promise<Measurement>;
  begin(): void;
}

function ready({ server, plans, timeoutMs }: Volley, index: number): Ready {
  const { sourcePort } = plans[index]!;
  const socket = new Socket();
  let start = 0;
  let startedAt = '';
  let done: (m: Measurement) => void;
  const end = (ms: number | null): void => {
    clearTimeout(timer);
    socket.resetAndDestroy();
    const repeated = ms === null || ms >= INITIAL_RTO_MS;
    done({ index, sourcePort, ms, repeated, startedAt });
  };
  let timer: NodeJS.Timeout;
  socket.once('connect', () => end((monotonic() - start) / 1e6));
  socket.on('error', () => end(null));
  return {
    measured: new Promise((resolve) => (done = resolve)),
    begin() {
      start = monotonic();
      startedAt = new Date().toISOString();
      timer = setTimeout(end, timeoutMs, null);
      socket.connect({
        host: server.address,
        port: server.port,
        ...(sourcePort === 0 ? {} : { localPort: sourcePort }),
      });
    },
  };
}

await fireVolleys((volley: Volley): Promise<Aimed> => {
  const connects = volley.plans.map((_, index) => ready(volley, index));
  return Promise.resolve({
    measured: connects.map(({ measured }) => measured),
    begin: (startAt) => atTheirMoments(volley, startAt, (index) => connects[index]!.begin()),
  });
});
