export default {
  async scheduled() {
    throw new Error("the job failed");
  },
};
