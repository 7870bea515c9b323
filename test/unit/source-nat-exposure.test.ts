import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { RulesFact } from '../../src/event/fact.js';
import { exposure as replyCollision } from '../../src/faults/conntrack-reply-collision/exposure.js';
import type { ExposureReport } from '../../src/faults/fault.js';
import { exposure as portExhaustion } from '../../src/faults/snat-port-exhaustion/exposure.js';
import { rulesFact } from '../../src/host/rules/read.js';
import { place } from './places.js';

const SERVICE =
  '-A PREROUTING -d 10.96.0.10/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.0.2:53';
const settings = {
  'net.ipv4.ip_forward': '1',
  'net.ipv4.ip_local_port_range': '32768 60999',
};

/** The rules of a namespace with these in table nat. */
const nat = (...lines: string[]): Promise<RulesFact> =>
  rulesFact(
    1,
    new Map([
      [
        'legacy ip',
        ['*nat', ':PREROUTING ACCEPT [0:0]', ':POSTROUTING ACCEPT [0:0]', ...lines].join('\n'),
      ],
    ]),
    [],
  );

const forms = ({ exposures }: ExposureReport) =>
  exposures.map(({ defect, confidence }) => `${defect} ${confidence}`);
const why = ({ exposures, unexposed }: ExposureReport): string => {
  assert.deepEqual(exposures, []);
  return unexposed.flatMap((one) => one.why).join(' ');
};

suite('exposure of source NAT', () => {
  test('a rule that keeps ports: connects may race, and lookups where there is a DNS Service', async () => {
    const rules = await nat(SERVICE, '-A POSTROUTING -s 10.2.0.0/16 -j MASQUERADE');
    const exhausted = portExhaustion(place({ rules, settings }));
    assert.deepEqual(forms(exhausted), ['port-race proved']);
    assert.match(
      exhausted.exposures[0]!.why[0]!,
      /-s 10\.2\.0\.0\/16 -j MASQUERADE` leaves a flow/,
    );
    assert.match(exhausted.exposures[0]!.remedies[0]!.what, /--random-fully/);
    const collided = replyCollision(place({ rules, settings }));
    assert.deepEqual(forms(collided), ['race proved']);
    assert.match(collided.exposures[0]!.why[0]!, /DNS at 10\.96\.0\.10/);
  });

  test('what conntrack has dropped is quoted', async () => {
    const rules = await nat('-A POSTROUTING -j MASQUERADE');
    const { exposures } = portExhaustion(
      place({ rules, settings, counters: { 'conntrack.drop': 3 } }),
    );
    assert.match(exposures[0]!.why.join(' '), /conntrack has dropped 3 packets/);
  });

  test('a rule with few ports is another exposure, one with many is none', async () => {
    const at = async (ports: string) =>
      forms(
        portExhaustion(
          place({
            rules: await nat(`-A POSTROUTING -p tcp -j MASQUERADE --to-ports ${ports} --random`),
            settings,
          }),
        ),
      );
    assert.deepEqual(await at('40000-40999'), ['no-free-port proved']);
    assert.deepEqual(await at('1024-65535'), []);
  });

  test('no rule, random ports, nothing forwarded, another protocol: not exposed, and why', async () => {
    const random = await nat(SERVICE, '-A POSTROUTING -j MASQUERADE --random-fully');
    assert.match(why(portExhaustion(place({ rules: random, settings }))), /at random/);
    assert.match(why(replyCollision(place({ rules: random, settings }))), /at random/);
    const none = await nat(SERVICE);
    assert.match(why(portExhaustion(place({ rules: none, settings }))), /no rule translates/);
    const keeping = await nat(SERVICE, '-A POSTROUTING -p tcp -j MASQUERADE');
    assert.match(why(replyCollision(place({ rules: keeping, settings }))), /no rule translates/);
    const own = { ...settings, 'net.ipv4.ip_forward': '0' };
    assert.match(why(portExhaustion(place({ rules: keeping, settings: own }))), /forwarded/);
    const without = await nat('-A POSTROUTING -j MASQUERADE');
    assert.match(why(replyCollision(place({ rules: without, settings }))), /port 53/);
  });

  test('rules that could not be read say nothing', () => {
    for (const exposure of [portExhaustion, replyCollision])
      assert.deepEqual(exposure(place({ settings })), { exposures: [], unexposed: [] });
  });

  test('a condition that cannot be judged makes it possible only', async () => {
    const rules = await nat('-A POSTROUTING -m set --match-set pods src -j MASQUERADE');
    assert.deepEqual(forms(portExhaustion(place({ rules, settings }))), ['port-race possible']);
  });
});
