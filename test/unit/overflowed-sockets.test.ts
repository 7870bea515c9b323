import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { overflowed, parseSockets } from '../../src/host/sockets.js';

/** As ss of iproute2 6.1 prints them. */
const TCP = [
  'LISTEN 4      3                  *:8080            *:*    users:(("node",pid=12779,fd=21)) skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d5)      ',
  'LISTEN 0      3              [::1]:5998         [::]:*    users:(("python3",pid=5685,fd=5),("python3",pid=5690,fd=5)) skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d12)',
].join('\n');
const UDP =
  'UNCONN 1664   0      127.0.0.53%lo:53    0.0.0.0:*    users:(("python3",pid=5685,fd=3)) skmem:(r1664,rb2304,t0,tb212992,f2432,w0,o0,bl0,d7)';

describe('sockets without room', () => {
  test('are those that dropped something, by what ss says', () => {
    const fact = parseSockets(
      1,
      new Map([
        ['tcp', TCP],
        ['udp', `\n${UDP}\n`],
      ]),
    );
    assert.deepEqual(fact, {
      fact: 'sockets',
      netns: 1,
      sockets: [
        {
          protocol: 'tcp',
          local: '[::1]:5998',
          waiting: 0,
          room: 3,
          dropped: 12,
          pids: [5685, 5690],
        },
        {
          protocol: 'udp',
          local: '127.0.0.53%lo:53',
          waiting: 1664,
          room: 2304,
          dropped: 7,
          pids: [5685],
        },
        { protocol: 'tcp', local: '*:8080', waiting: 4, room: 3, dropped: 5, pids: [12779] },
      ],
    });
  });

  test('none is no fact', () => {
    assert.equal(parseSockets(1, new Map([['tcp', '\n']])), null);
    assert.equal(parseSockets(1, new Map([['tcp', 'Error: no such option -O']])), null);
  });

  test('are looked at when a counter of them rose, and no other', () => {
    assert.ok(overflowed({ 'Udp.RcvbufErrors': 1 }, { 'Udp.RcvbufErrors': 2 }));
    assert.ok(overflowed({}, { 'TcpExt.ListenDrops': 1 }));
    assert.ok(!overflowed({ 'TcpExt.ListenDrops': 1 }, { 'TcpExt.ListenDrops': 1 }));
    assert.ok(!overflowed({}, { 'Udp.NoPorts': 9 }));
  });
});
