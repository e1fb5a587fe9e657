export default {
  async fetch(request, env) {
    return env.BACK.fetch("http://back/");
  },
};
