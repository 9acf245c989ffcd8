// Loaded before a server that would listen on every interface: it gets loopback instead.
const net = require("node:net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (/^\d+$/.test(String(args[0]))) args.splice(1, 0, "127.0.0.1");
  return listen.apply(this, args);
};
