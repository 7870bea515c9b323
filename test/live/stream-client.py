# A client of the stream: python3 stream-client.py ws://127.0.0.1:6363/stream
import asyncio, json, struct, sys
import msgpack, websockets


async def main(url):
    async with websockets.connect(url, subprotocols=["skbwhy.v1"], max_size=None) as ws:
        await ws.send(msgpack.packb({"type": "filter", "filter": {"points": ["packet.drop"]}}))
        async for data in ws:
            m = msgpack.unpackb(data)
            if m["type"] == "hello":
                session = m["session"]
                where, width = session["layout"]["reason"]
            elif m["type"] == "records":
                at, records = 0, m["records"]
                while at < len(records):
                    size, kind = struct.unpack_from("<IB", records, at)
                    if kind == 1:
                        reason = int.from_bytes(records[at + where : at + where + width], "little")
                        print(json.dumps({"drop": session["reasons"][str(reason)]}))
                    at += size
            elif m["type"] == "finding":
                print(json.dumps({"finding": m["finding"]}))
            elif m["type"] == "end":
                return


asyncio.run(main(sys.argv[1]))
