/** The DNS messages that labs send: one question, and an answer with one address. RFC 1035, section 4. */

export const TYPE_A = 1;
export const TYPE_AAAA = 28;

const HEADER = 12;
const CLASS_IN = 1;

/** A query for one name; recursion desired, as stub resolvers ask. */
export function encodeQuery(id: number, name: string, type: number): Buffer {
  const labels = name.split('.').flatMap((label) => [label.length, ...Buffer.from(label)]);
  const header = [id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
  return Buffer.from([...header, ...labels, 0, type >> 8, type & 255, 0, CLASS_IN]);
}

/** The answer to a query: 192.0.2.1 or 2001:db8::1 (documentation addresses). */
export function encodeAnswer(query: Buffer): Buffer {
  let end = HEADER;
  while (query[end]) end += query[end]! + 1;
  const reply = Buffer.from(query.subarray(0, end + 5));
  const type = query.readUInt16BE(end + 1);
  const address =
    type === TYPE_AAAA
      ? [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
      : type === TYPE_A
        ? [192, 0, 2, 1]
        : [];
  reply.writeUInt16BE(0x8180, 2);
  reply.writeUInt16BE(address.length > 0 ? 1 : 0, 6);
  reply.writeUInt32BE(0, 8); // no authority, nothing additional (EDNS)
  if (address.length === 0) return reply;
  // a pointer to the question's name, type, class, a minute, length
  const record = [0xc0, HEADER, 0, type, 0, CLASS_IN, 0, 0, 0, 60, 0, address.length];
  return Buffer.concat([reply, Buffer.from([...record, ...address])]);
}
