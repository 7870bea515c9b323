# skbwhy on a node that need not have Node, libbpf or a compiler: see docs/container.md.
# It works in the host's namespaces: --privileged --net=host --pid=host.

# where it is built: Node 20.12 or newer with npm, below /usr/local, on BASE's release or an older one
ARG NODE=node:20-bookworm-slim
# where it runs: Debian 12 or newer
ARG BASE=debian:bookworm-slim

FROM ${NODE} AS build
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 make g++
WORKDIR /opt/skbwhy
COPY package.json package-lock.json .npmrc ./
# Node's headers are there: node-gyp need not download them (npm 10 and earlier know the first name)
RUN npm_config_nodedir=/usr/local npm_package_config_node_gyp_nodedir=/usr/local npm ci \
 && node -e "require('ffi-napi')"
COPY . .
RUN npm run build \
 && npm prune --omit=dev \
 && rm -rf node_modules/ffi-napi/deps node_modules/*/build/Release/obj.target

FROM ${BASE}
LABEL org.opencontainers.image.title="skbwhy" \
      org.opencontainers.image.description="Explains from inside the kernel why a packet did not arrive, and why it arrived in the end" \
      org.opencontainers.image.licenses="Apache-2.0 AND (BSD-2-Clause OR GPL-2.0-only)"
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      libbpf1 libpcap0.8 libstdc++6 iproute2 iptables nftables ethtool util-linux \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /opt/skbwhy/package.json /opt/skbwhy/LICENSE /opt/skbwhy/
COPY --from=build /opt/skbwhy/LICENSES /opt/skbwhy/LICENSES
COPY --from=build /opt/skbwhy/node_modules /opt/skbwhy/node_modules
COPY --from=build /opt/skbwhy/bin /opt/skbwhy/bin
COPY --from=build /opt/skbwhy/bpf /opt/skbwhy/bpf
COPY --from=build /opt/skbwhy/sessions /opt/skbwhy/sessions
COPY --from=build /opt/skbwhy/dist/src /opt/skbwhy/dist/src
RUN ln -s /opt/skbwhy/bin/skbwhy.js /usr/local/bin/skbwhy

# a lab would make its faults among the host's own namespaces
ENV SKBWHY_NO_LAB=1
# sessions are written here: mount a folder of the host
WORKDIR /data
ENTRYPOINT ["skbwhy"]
CMD ["daemon"]
