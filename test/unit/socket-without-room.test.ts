import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { OverflowedSocket } from '../../src/event/fact.js';
import { World } from '../../src/explain/world.js';
import { processOf, socketClaim, socketOf } from '../../src/faults/receive-buffer-full/socket.js';

const NETNS = 7;
const listening = (local: string): OverflowedSocket => ({
  protocol: 'tcp',
  local,
  waiting: 4,
  room: 3,
  dropped: 2,
  pids: [12],
});

/** A world in which sockets were looked at once, at second 5. */
function worldWith(...sockets: OverflowedSocket[]): World {
  const world = new World();
  const evidence = { session: 's', seq: 1 };
  world.learn(
    { fact: 'process', pid: 12, command: '/usr/bin/node server.js', container: null, pod: null },
    5e9,
    evidence,
  );
  world.learn({ fact: 'sockets', netns: NETNS, sockets }, 5e9, evidence);
  return world;
}

describe('the socket that a packet came to', () => {
  const ipv4 = { address: '10.0.0.1', port: 80 };

  for (const [local, to] of [
    ['10.0.0.1:80', ipv4],
    ['0.0.0.0:80', ipv4],
    ['*:80', ipv4],
    ['[::ffff:10.0.0.1]:80', ipv4],
    ['10.0.0.1%eth0:80', ipv4],
    ['[::]:80', { address: 'fd00::1', port: 80 }],
    ['[fd00::1]:80', { address: 'fd00::1', port: 80 }],
  ] as const)
    test(`${local} takes what is for ${to.address}`, () => {
      const world = worldWith(listening(local));
      const seen = socketOf(world, NETNS, 'tcp', to, 4e9);
      assert.ok(seen && seen !== 'another');
      assert.equal(processOf(world, seen, true), 'node (pid 12)');
      assert.match(
        socketClaim(world, seen).text,
        /4 connections waited for accept\(\) where 3 may/,
      );
    });

  test('is another one, where others alone were seen to have dropped something', () => {
    for (const local of ['10.0.0.2:80', '0.0.0.0:81'])
      assert.equal(socketOf(worldWith(listening(local)), NETNS, 'tcp', ipv4, 4e9), 'another');
    assert.equal(socketOf(worldWith(listening('*:80')), NETNS, 'udp', ipv4, 4e9), 'another');
  });

  test('is not known before sockets were looked at, nor elsewhere', () => {
    assert.equal(socketOf(new World(), NETNS, 'tcp', ipv4, 4e9), null);
    assert.equal(socketOf(worldWith(listening('0.0.0.0:81')), NETNS, 'tcp', ipv4, 6e9), null);
    assert.equal(socketOf(worldWith(listening('*:80')), NETNS + 1, 'tcp', ipv4, 4e9), null);
  });
});
