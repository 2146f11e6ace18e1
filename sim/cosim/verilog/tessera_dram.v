// A memory behind an AXI4 port: latency, limited bandwidth, a second master, stalls and error answers.
//
// - Bursts are INCR of full beats. Up to FIFO_DEPTH read bursts and as many write bursts are in flight, answered in
//   order. The first R of a burst is valid `read_latency` cycles after its AR was taken (at least 2) if the bus is free;
//   B is valid `write_latency` cycles after the last W was taken (at least 2).
// - Every beat, R or W, needs a beat of the bandwidth (cosim_bandwidth). R and W take turns when both want one.
// - Accesses within [error_base, error_limit) are answered with SLVERR, those behind the memory with DECERR. Such reads
//   return zeros and such writes change nothing.
// - A write is visible to reads from the cycle after its W was taken.

`default_nettype none

module tessera_dram #(
    parameter DATA_BITS    = 128,
    parameter ADDRESS_BITS = 40,
    parameter ID_BITS      = 2,
    parameter BYTES        = 16777216,
    parameter FIFO_DEPTH   = 32
) (
    input  wire                    clk,
    input  wire                    rst,
    input  wire [63:0]             now,

    input  wire [15:0]             read_latency,
    input  wire [15:0]             write_latency,
    input  wire [15:0]             bandwidth,
    input  wire  [8:0]             traffic_share,
    input  wire                    traffic_random,
    input  wire  [7:0]             random_byte,
    input  wire [ADDRESS_BITS-1:0] error_base,
    input  wire [ADDRESS_BITS-1:0] error_limit,
    input  wire                    stall_ar, stall_r, stall_aw, stall_w, stall_b,

    output reg  [63:0]             npu_read_bytes,
    output reg  [63:0]             npu_write_bytes,
    output wire [63:0]             traffic_bytes,
    output wire                    traffic_beat,
    output wire                    wlast_expected,

    input  wire                    host_request,
    output wire                    host_done,
    input  wire  [1:0]             host_command,
    input  wire [ADDRESS_BITS-1:0] host_address,
    input  wire [31:0]             host_words,
    input  wire [DATA_BITS-1:0]    host_wdata,
    input  wire [DATA_BITS/8-1:0]  host_wstrb,
    output wire [DATA_BITS-1:0]    host_rdata,
    output wire                    host_failed,

    input  wire [ID_BITS-1:0]      axi_awid,
    input  wire [ADDRESS_BITS-1:0] axi_awaddr,
    input  wire  [7:0]             axi_awlen,
    input  wire                    axi_awvalid,
    output wire                    axi_awready,
    input  wire [DATA_BITS-1:0]    axi_wdata,
    input  wire [DATA_BITS/8-1:0]  axi_wstrb,
    input  wire                    axi_wvalid,
    output wire                    axi_wready,
    output wire [ID_BITS-1:0]      axi_bid,
    output wire  [1:0]             axi_bresp,
    output wire                    axi_bvalid,
    input  wire                    axi_bready,
    input  wire [ID_BITS-1:0]      axi_arid,
    input  wire [ADDRESS_BITS-1:0] axi_araddr,
    input  wire  [7:0]             axi_arlen,
    input  wire                    axi_arvalid,
    output wire                    axi_arready,
    output wire [ID_BITS-1:0]      axi_rid,
    output wire [DATA_BITS-1:0]    axi_rdata,
    output wire  [1:0]             axi_rresp,
    output wire                    axi_rlast,
    output wire                    axi_rvalid,
    input  wire                    axi_rready
);
    localparam [63:0] BEAT_BYTES = {35'd0, DATA_BITS[31:3]};
    localparam SHIFT      = $clog2(BEAT_BYTES);
    localparam INDEX_BITS = $clog2(BYTES) - SHIFT;

    wire                    read_wants, read_takes, write_wants, write_takes, write_store;
    wire [ADDRESS_BITS-1:0] read_address, write_address;
    wire  [1:0]             read_response, write_response;
    wire [DATA_BITS-1:0]    read_data;

    // --------------------------------------------------------------------------------------- who moves the next beat
    wire npu_beat;
    reg  write_turn;

    cosim_bandwidth #(.BEAT_BYTES(BEAT_BYTES)) shares (
        .clk(clk), .rst(rst),
        .bandwidth(bandwidth), .traffic_share(traffic_share), .traffic_random(traffic_random),
        .random_byte(random_byte),
        .npu_beat(npu_beat), .traffic_beat(traffic_beat), .traffic_bytes(traffic_bytes)
    );

    assign read_takes  = npu_beat && read_wants && !(write_wants && write_turn);
    assign write_takes = npu_beat && write_wants && !(read_wants && !write_turn);

    initial begin
        npu_read_bytes = 0;
        npu_write_bytes = 0;
    end

    always @(posedge clk) begin
        if (read_takes) begin
            write_turn <= 1;
            npu_read_bytes <= npu_read_bytes + BEAT_BYTES;
        end
        if (write_takes) begin
            write_turn <= 0;
            npu_write_bytes <= npu_write_bytes + BEAT_BYTES;
        end
        if (rst) write_turn <= 0;
    end

    // -------------------------------------------------------------------------------------------------- both channels
    cosim_dram_read #(
        .DATA_BITS(DATA_BITS), .ADDRESS_BITS(ADDRESS_BITS), .ID_BITS(ID_BITS), .FIFO_DEPTH(FIFO_DEPTH)
    ) read (
        .clk(clk), .rst(rst), .now(now), .latency(read_latency), .stall_ar(stall_ar), .stall_r(stall_r),
        .beat_wanted(read_wants), .beat_taken(read_takes), .beat_address(read_address),
        .beat_response(read_response), .beat_data(read_data),
        .axi_arid(axi_arid), .axi_araddr(axi_araddr), .axi_arlen(axi_arlen),
        .axi_arvalid(axi_arvalid), .axi_arready(axi_arready),
        .axi_rid(axi_rid), .axi_rdata(axi_rdata), .axi_rresp(axi_rresp), .axi_rlast(axi_rlast),
        .axi_rvalid(axi_rvalid), .axi_rready(axi_rready)
    );

    cosim_dram_write #(
        .DATA_BITS(DATA_BITS), .ADDRESS_BITS(ADDRESS_BITS), .ID_BITS(ID_BITS), .FIFO_DEPTH(FIFO_DEPTH)
    ) write (
        .clk(clk), .rst(rst), .now(now), .latency(write_latency),
        .stall_aw(stall_aw), .stall_w(stall_w), .stall_b(stall_b),
        .beat_wanted(write_wants), .beat_taken(write_takes), .beat_address(write_address),
        .beat_response(write_response), .beat_last(wlast_expected),
        .axi_awid(axi_awid), .axi_awaddr(axi_awaddr), .axi_awlen(axi_awlen),
        .axi_awvalid(axi_awvalid), .axi_awready(axi_awready),
        .axi_wvalid(axi_wvalid), .axi_wready(axi_wready),
        .axi_bid(axi_bid), .axi_bresp(axi_bresp), .axi_bvalid(axi_bvalid), .axi_bready(axi_bready)
    );

    // --------------------------------------------------------------------------------------------- answers and storage
    cosim_response #(.ADDRESS_BITS(ADDRESS_BITS), .BYTES(BYTES)) read_check (
        .address(read_address), .error_base(error_base), .error_limit(error_limit), .response(read_response)
    );
    cosim_response #(.ADDRESS_BITS(ADDRESS_BITS), .BYTES(BYTES)) write_check (
        .address(write_address), .error_base(error_base), .error_limit(error_limit), .response(write_response)
    );

    assign write_store = write_takes && write_response == 0;

    cosim_storage #(.DATA_BITS(DATA_BITS), .ADDRESS_BITS(ADDRESS_BITS), .BYTES(BYTES)) storage (
        .clk(clk),
        .read_enable(read_takes), .read_index(read_address[SHIFT +: INDEX_BITS]), .read_data(read_data),
        .write_enable(write_store), .write_index(write_address[SHIFT +: INDEX_BITS]),
        .write_data(axi_wdata), .write_strb(axi_wstrb),
        .host_request(host_request), .host_done(host_done), .host_command(host_command),
        .host_address(host_address), .host_words(host_words), .host_wdata(host_wdata), .host_wstrb(host_wstrb),
        .host_rdata(host_rdata), .host_failed(host_failed)
    );
endmodule


// The AXI response of an access: OKAY, SLVERR within the range that was asked for, DECERR behind the memory.
module cosim_response #(
    parameter ADDRESS_BITS = 40,
    parameter BYTES        = 16777216
) (
    input  wire [ADDRESS_BITS-1:0] address,
    input  wire [ADDRESS_BITS-1:0] error_base,
    input  wire [ADDRESS_BITS-1:0] error_limit,
    output wire  [1:0]             response
);
    localparam [1:0] OKAY = 0, SLVERR = 2, DECERR = 3;

    assign response = address >= error_base && address < error_limit ? SLVERR : address >= BYTES ? DECERR : OKAY;
endmodule

`default_nettype wire
